"""Measure the CPU seconds to open a GeoIP file of three million networks, and to look up new and cached addresses.

`python -m bench.geoip [FILE]`; without a file, one is made.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.geoip.city import write_city
from warehouse import geoip


def measure(what: str, work: Callable[[], object]) -> None:
    """Print the CPU seconds of `work`."""
    started = time.process_time()
    work()
    sys.stdout.write(f"{what:<42}{time.process_time() - started:8.3f} s CPU\n")


def main() -> None:
    """Measure all steps, and print their CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "city.mmdb"
        if len(sys.argv) < 2:
            sys.stdout.write(f"{write_city(path):,} IPv4 networks\n")
        opened: list[geoip.GeoIp] = []
        measure("open it (all that a quiet run does)", lambda: opened.append(geoip.read(path)))
        random = np.random.default_rng(1)
        for count in (1, 1_000, 50_000, 200_000):
            addresses = random.integers(0, 2**32, count, dtype=np.uint32)
            measure(f"{count:,} new addresses", lambda addresses=addresses: opened[0].of_v4(addresses))  # type: ignore[misc]
        measure("the last 200,000 again", lambda: opened[0].of_v4(addresses))
        measure("every record (`dwh geoip update`)", lambda: opened[0].check())


if __name__ == "__main__":
    main()
