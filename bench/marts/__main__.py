"""Measure how long readers wait for each mart and each query of a dashboard: `python -m bench.marts`.

Aggregated marts are read in full, up to 10,000 rows; marts of details by key, and by a page of 100 rows; each query of
report, dashboard, Grafana and Superset as it is. All run as `dwh_reader`, on a warehouse of full size and on one of a
tenth of it, to show the growth. The medians of 20 readings are written to bench/results/marts.json.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.marts.fill import YEARS, fill
from bench.marts.queries import all_queries
from stack.postgres import EmbeddedPostgres
from warehouse.db.connections import connect

RESULT = Path(__file__).parents[1] / "results" / "marts.json"
TIMES = 20
# A run every quarter of an hour, for five years.
RUNS = YEARS * 365 * 96
LIMIT_MS = 100


def main() -> None:
    """Make warehouses of both sizes, refresh their marts, read them, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=20_000_000)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs in the audit trail")
    parser.add_argument("--folder", type=Path, help="keep the warehouses here, and read those that are there")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    sizes = {
        name: (asked.orders // part, asked.requests // part, asked.runs // part)
        for name, part in (("tenth", 10), ("full", 1))
    }
    seconds, times = {}, {}
    with _folder(asked.folder) as folder:
        for name, size in sizes.items():
            seconds[name], times[name] = _measure(folder / name, *size)
    result = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "orders": asked.orders,
        "requests": asked.requests,
        "runs": asked.runs,
        "slowest_ms": max(times["full"].values()),
        "over_100_ms": sorted(name for name, taken in times["full"].items() if taken >= LIMIT_MS),
        "seconds": seconds,
        "median_ms": {
            name: {"tenth": times["tenth"].get(name), "full": taken} for name, taken in times["full"].items()
        },
    }
    asked.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(f"{'median of ' + str(TIMES):<70}{'tenth':>12}{'full':>12}\n")
    for name, taken in sorted(times["full"].items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{name[:68]:<70}{times['tenth'].get(name, 0):9.1f} ms{taken:9.1f} ms\n")


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    folder = kept or Path(tempfile.mkdtemp(prefix="bench-marts-"))
    try:
        yield folder
    finally:
        if kept is None:
            shutil.rmtree(folder)


def _measure(
    folder: Path, orders: int, requests: int, runs: int
) -> tuple[dict[str, float] | None, dict[str, float]]:
    """Return the seconds to fill the warehouse, None if it existed; and the median milliseconds by query."""
    seconds = None
    filled = folder / "filled.json"
    folder.mkdir(parents=True, exist_ok=True)
    postgres = EmbeddedPostgres(folder / "postgres", 18, {"fsync": "off", "shared_buffers": "1GB"})
    postgres.start()
    try:
        if not filled.exists():
            seconds = fill(postgres, folder, orders, requests, runs)
            filled.write_text(json.dumps(seconds))
        url = postgres.url("warehouse")
        with connect(url, autocommit=True) as reader, connect(url, autocommit=True) as owner:
            reader.execute("set role dwh_reader")
            times = {name: _median(ask) for name, ask in all_queries(url, reader, owner)}
    finally:
        postgres.stop()
    return seconds, times


def _median(ask: Callable[[], Any]) -> float:
    taken = []
    for _ in range(TIMES):
        started = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(taken), 1)


if __name__ == "__main__":
    main()
