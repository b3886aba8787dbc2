"""Benchmark of web logs: lines per second of a complete load, compared with a bare COPY of its rows and other tools.

`python -m bench.weblogs --lines 4000000 --rounds 3 --grow-to 12000000`. Prints tables with ratios, writes
bench/results/weblogs.json, and draws bench/results/weblogs.svg: throughput by rows already loaded.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.weblogs.chart import draw
from bench.weblogs.contenders import ROOT, Timing, bare_copy, final_rows, goaccess, ours, tool
from generators import geoip, weblogs
from stack.postgres import EmbeddedPostgres
from warehouse.migrations.revisions import upgrade

console = Console()
DAY = date(2026, 11, 20)
DAYS = 5
MARTS = ("top_devices_by_users", "countries_by_logged_users", "most_viewed_products", "interactions_by_day")


def main() -> None:
    """Measure, print, and write the results."""
    options = _options()
    folder = ROOT / ".dwh" / "bench" / "weblogs"
    shutil.rmtree(folder, ignore_errors=True)
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    try:
        results = _Benchmark(postgres, folder, options).run()
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    show(results)
    target = ROOT / "bench" / "results"
    target.mkdir(exist_ok=True)
    (target / "weblogs.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results["growth"], target / "weblogs.svg")
    console.print("written to bench/results/weblogs.json and weblogs.svg")


class _Benchmark:
    """One run of the benchmark: the input is generated once, and all contenders take turns on one server."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> None:
        self._postgres, self._folder, self._options = postgres, folder, options
        self._home, self._lake = folder / "home", folder / "lake"
        self._logs = self._lake / "landing" / "weblogs"

    def run(self) -> dict[str, Any]:
        """Run all contenders; returns the results."""
        options = self._options
        geoip.write(self._home / "geoip" / "demo.mmdb")
        made = weblogs.generate(self._logs, lines=options.lines, days=DAYS, until=DAY)
        console.print(f"{made.lines:,} lines, {made.bytes / 1e9:.2f} GB, generated in {made.seconds:.1f} s")
        loads, floors = [], []
        for number in range(options.rounds):
            url = self._warehouse("ours")
            loads.append(self._load(url))
            if loads[-1]["quarantined"] != sum(made.bad.values()):
                raise RuntimeError(f"{loads[-1]['quarantined']} lines in quarantine, not {made.bad}")
            if not number:
                leaves = final_rows(url, self._folder / "rows")
                floor_url = self._database("floor", template="ours")
            floors.append(bare_copy(floor_url, leaves))
            speed = ours_of(loads[-1]).lines_per_second
            console.print(f"round {number + 1}: ours {speed:,.0f}, floor {floors[-1].lines_per_second:,.0f}")
        shutil.rmtree(self._folder / "rows")
        self._drop("floor")
        fact_bytes = _fact_bytes(url)
        tools = self._tools()
        seconds = statistics.median(load["seconds"] for load in loads)
        floor = statistics.median(one.seconds for one in floors)
        growth = self._grow()
        return {
            "lines_per_second": round(options.lines / seconds),
            "ratio_to_copy": round(seconds / floor, 2),
            "bytes_per_row": round(fact_bytes / loads[-1]["rows"], 1),
            "peak_memory_mb": round(max(load["peak_memory_mb"] for load in loads)),
            "mart_milliseconds": _mart_milliseconds(url),
            "rows_when_marts_were_read": growth[-1]["rows_before"] + growth[-1]["rows"],
            "client_cpu_microseconds_per_line": round(
                statistics.median(load["client_cpu_seconds"] for load in loads) / options.lines * 1e6, 2
            ),
            "throughput_when_full_to_when_empty": round(
                growth[-1]["lines_per_second"] / growth[0]["lines_per_second"], 2
            ),
            "contenders": {
                "ours": _measured(options.lines, seconds),
                "bare COPY of the same rows": _measured(floors[0].lines, floor),
                **{name: _measured(one.lines, one.seconds) for name, one in tools.items() if one is not None},
            },
            "not_here": [name for name, one in tools.items() if one is None],
            "growth": growth,
            "lines": options.lines,
            "rounds": options.rounds,
            "postgres": options.postgres,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "load_average_at_end": round(os.getloadavg()[0], 2),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _load(self, url: str) -> dict[str, float]:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("checkpoint")
        return ours(url, self._lake, self._home)

    def _tools(self) -> dict[str, Timing | None]:
        """Run the slower tools on the first lines of the same files."""
        few = self._folder / "few"
        few.mkdir()
        lines = min(self._options.tool_lines, self._options.lines)
        with sorted(self._logs.glob("*.log"))[0].open("rb") as source, (few / "few.log").open("wb") as target:
            target.writelines(islice(source, lines))
        url = self._database("tools")
        found = {
            "dlt (filesystem to postgres, Arrow)": tool("dlt", str(few), url, str(self._folder / "dlt")),
            "pandas with COPY": tool("pandas", str(few), url),
            "goaccess (report only)": goaccess(few, lines),
        }
        self._drop("tools")
        return found

    def _grow(self) -> list[dict[str, float]]:
        """Load more files of the same size again and again, into one warehouse."""
        url = self._warehouse("ours")
        steps: list[dict[str, float]] = []
        rows, number = 0.0, 0
        while not steps or rows < self._options.grow_to:
            if number:
                for path in self._logs.iterdir():
                    path.unlink()
                until = DAY + timedelta(days=DAYS * number)
                weblogs.generate(self._logs, lines=self._options.lines, days=DAYS, until=until, seed=number)
            load = self._load(url)
            speed = round(load["lines"] / load["seconds"])
            steps.append({"rows_before": rows, "rows": load["rows"], "lines_per_second": speed})
            console.print(f"{rows:,.0f} rows before: {speed:,} lines/s")
            rows, number = rows + load["rows"], number + 1
        return steps

    def _warehouse(self, name: str) -> str:
        if not hasattr(self, "_migrated"):
            self._migrated = self._database("migrated")
            upgrade(self._migrated)
        self._drop(name)
        return self._database(name, template="migrated")

    def _database(self, name: str, template: str = "template1") -> str:
        self._postgres.create_database(name, template)
        return self._postgres.url(name)

    def _drop(self, name: str) -> None:
        with psycopg.connect(self._postgres.url(), autocommit=True) as connection:
            connection.execute(f"drop database if exists {name} with (force)".encode())


def ours_of(load: dict[str, float]) -> Timing:
    """Convert the result of our load to a Timing."""
    return Timing(int(load["lines"]), load["seconds"])


def show(results: dict[str, Any]) -> None:
    """Print the results."""
    contenders = results["contenders"]
    table = Table(title=f"Access logs into PostgreSQL, median of {results['rounds']} rounds (tools: 1)")
    for heading in ("contender", "lines", "seconds", "lines/s", "ours is faster by"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    mine = contenders["ours"]["lines_per_second"]
    for name, one in contenders.items():
        times = f"{mine / one['lines_per_second']:.2f}"
        table.add_row(
            name, f"{one['lines']:,}", f"{one['seconds']:.2f}", f"{one['lines_per_second']:,}", times
        )
    console.print(table)
    for name in ("ratio_to_copy", "bytes_per_row", "peak_memory_mb", "mart_milliseconds", "not_here"):
        console.print(f"{name}: {results[name]}")


def _measured(lines: int, seconds: float) -> dict[str, float]:
    return {"lines": lines, "seconds": round(seconds, 2), "lines_per_second": round(lines / seconds)}


def _fact_bytes(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select sum(pg_total_relation_size(relid)) from pg_partition_tree('dwh.fact_weblog') where isleaf"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _mart_milliseconds(url: str) -> dict[str, float]:
    """Measure the median of five readings of each mart, including the first one after the load."""
    found = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for name in MARTS:
            times = []
            for _ in range(5):
                started = time.perf_counter()
                connection.execute(f"select * from mart.{name}".encode()).fetchall()
                times.append(time.perf_counter() - started)
            found[name] = round(statistics.median(times) * 1000, 1)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.weblogs", description=__doc__)
    parser.add_argument(
        "--lines", type=int, default=4_000_000, help="of the input, and of each step of growth"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the bare COPY")
    parser.add_argument("--tool-lines", type=int, default=500_000, help="for dlt, pandas and goaccess")
    parser.add_argument("--grow-to", type=int, default=12_000_000, help="rows loaded in the end")
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    return parser.parse_args()


if __name__ == "__main__":
    main()
