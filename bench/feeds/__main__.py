"""Benchmark of the lake: the order feed compared with dlt and DuckDB, the cost of the archive, and a rebuild from it.

`python -m bench.feeds --orders 400000`: each contender loads the same order files into a database of its own, in a
process of its own. Then `dwh run shop` loads a shop, and a day of changes, with and without the archive; the warehouse
is dropped and rebuilt by `dwh rebuild --all`; at last the order feed is loaded beside that shop, to whose customers and
products it refers. Prints seconds, and CPU seconds of process and server; writes bench/results/feeds.json.
"""

import argparse
import json
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench.feeds import archive, order_feed
from bench.feeds.process import Timing
from stack.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "feeds.json"
console = Console()


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    folder = ROOT / ".dwh" / "bench" / "feeds"
    shutil.rmtree(folder, ignore_errors=True)
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    results = json.loads(RESULTS.read_text()) if options.only and RESULTS.exists() else {}
    try:
        if options.only in (None, "orders"):
            results |= order_feed.measure(
                postgres,
                folder,
                orders=options.orders,
                files=options.files,
                rounds=options.rounds,
                contenders=options.contenders,
                report=_report,
            )
            results["load_average_after_orders"] = _load_average()
        if options.only in (None, "archive"):
            results |= archive.measure(
                postgres,
                folder,
                shop_orders=options.shop_orders,
                feed_orders=options.orders,
                files=options.files,
                rounds=options.rounds,
                report=_report,
            )
            results["load_average_after_archive"] = _load_average()
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    results |= {
        "rounds": options.rounds,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, value in results.items():
        if isinstance(value, float | int):
            console.print(f"{name}: {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"kept in {RESULTS.relative_to(ROOT)}")


def _load_average() -> float:
    """Return the load average of the last minute: on two cores, far above 2 means that other processes ran as well."""
    return round(os.getloadavg()[0], 1)


def _report(what: str, timing: Timing | None = None, note: str = "") -> None:
    if timing is None:
        console.print(what)
        return
    console.print(
        f"{what:<28} {timing.seconds:8.2f} s   CPU: process {timing.process_cpu:.2f} s, "
        f"server {timing.server_cpu:.2f} s   {note}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.feeds", description=__doc__)
    parser.add_argument(
        "--orders", type=int, default=400_000, help="orders in the files, about 2.3 items each"
    )
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument(
        "--shop-orders", type=int, default=200_000, help="orders of the shop that is archived"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    parser.add_argument(
        "--contenders", nargs="+", default=list(order_feed.CONTENDERS), choices=list(order_feed.CONTENDERS)
    )
    parser.add_argument(
        "--only", choices=("orders", "archive"), help="measure this part, and keep the figures of the other"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
