"""Benchmark of capture: first load, days of change, runs with no change, compared with sling plus dbt and plain SQL.

`python -m bench.capture --orders 1000000 --days 3`; every contender loads the same shop on the same server, and a run
of dwh verifies as much as if fifteen minutes had passed since the last. At the end, runs with no change and with 10,000
changes are compared between this shop and one of a tenth of its size: `--growth-only --orders 10000000` measures only
that, and keeps the other figures. Prints tables of seconds and ratios and writes bench/results/capture.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.capture.contenders import CONTENDERS, HERE, ROOT, Databases, Timing
from bench.capture.shops import change_a_day, change_ten_thousand, make_shop, rest, settle
from stack.postgres import EmbeddedPostgres
from warehouse.migrations.revisions import upgrade

console = Console()
BASELINE = "floor"
RESULTS = ROOT / "bench" / "results" / "capture.json"
Timings = dict[str, dict[str, list[Timing]]]


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    folder = ROOT / ".dwh" / "bench" / "capture"
    shutil.rmtree(folder, ignore_errors=True)
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    results = json.loads(RESULTS.read_text()) if options.growth_only and RESULTS.exists() else {}
    try:
        shop = make_shop(postgres, options.orders, "shop", console.print)
        ours = _databases(postgres, folder, shop, "ours")
        if options.growth_only:
            CONTENDERS["ours"](ours)
        else:
            timings = compare(postgres, folder, ours, options)
            results = summarize_comparison(timings) | _circumstances(options)
            show(timings)
        if "ours" in options.contenders:
            sizes = measure_growth(postgres, folder, ours, options)
            results |= summarize_growth(sizes) | {"growth": _circumstances(options)}
            show(sizes)
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in results.items():
        if isinstance(value, float | int):
            console.print(f"{name}: {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"kept in {RESULTS.relative_to(ROOT)}")


def compare(
    postgres: EmbeddedPostgres, folder: Path, ours: Databases, options: argparse.Namespace
) -> Timings:
    """Measure seconds by load (first, changed, unchanged) and contender."""
    databases = {
        name: ours if name == "ours" else _databases(postgres, folder, ours.shop, name.replace(" + ", "_"))
        for name in options.contenders
    }
    timings: Timings = {}

    def load(kind: str, day: int) -> None:
        # The first contender finds other caches than the next: change the order from day to day.
        place = day % len(options.contenders)
        for name in options.contenders[place:] + options.contenders[:place]:
            _measure(timings, kind, name, databases[name], CONTENDERS[name])

    load("first", 0)
    for database in databases.values():
        rest(database.warehouse)
    for day in range(1, options.days + 1):
        change_a_day(ours.shop, day)
        load("changed", day)
        load("unchanged", day)
    return timings


def measure_growth(
    postgres: EmbeddedPostgres, folder: Path, whole: Databases, options: argparse.Namespace
) -> Timings:
    """Measure a run with no change and one with 10,000, by the size of the shop: that of `whole`, and a tenth of it."""
    shop = make_shop(postgres, options.orders // 10, "small_shop", console.print)
    sizes = {"tenth": _databases(postgres, folder, shop, "small"), "whole": whole}
    CONTENDERS["ours"](sizes["tenth"])
    for databases in sizes.values():
        rest(databases.warehouse)
    timings: Timings = {}
    for _ in range(options.days):
        for size, databases in sizes.items():
            _measure(timings, "unchanged", size, databases, CONTENDERS["ours"])
            change_ten_thousand(databases.shop)
            _measure(timings, "10,000", size, databases, CONTENDERS["ours"])
    return timings


def summarize_comparison(timings: Timings) -> dict[str, object]:
    """Compute medians, and the ratios that the project's goals name."""
    medians = {kind: _medians(contenders) for kind, contenders in timings.items()}
    results: dict[str, object] = {}
    if "ours" in medians["first"] and BASELINE in medians["first"]:
        results |= {
            f"{name}_ratio_to_floor": round(
                medians[kind]["ours"]["engine"] / medians[kind][BASELINE]["engine"], 2
            )
            for kind, name in (("first", "first_load"), ("changed", "incremental"))
        }
    if "ours" in medians["first"]:
        results |= {
            "unchanged_whole_seconds": medians["unchanged"]["ours"]["whole_seconds"],
            "unchanged_engine_seconds": medians["unchanged"]["ours"]["engine"],
            # The kind of run with the worst ratio counts.
            "source_rows_read_ratio": max(
                medians[kind]["ours"]["source_rows_read_ratio"] for kind in ("changed", "unchanged")
            ),
        }
        if "sling + dbt" in medians["first"]:
            stack, ours = (medians["changed"][name]["whole_seconds"] for name in ("sling + dbt", "ours"))
            results["speedup_to_best_stack_whole_process"] = round(stack / ours, 2)
    return results | {"medians": medians}


def summarize_growth(timings: Timings) -> dict[str, object]:
    """Compute the cost of a run on the shop, compared with a shop of a tenth of its rows."""
    medians = {kind: _medians(sizes) for kind, sizes in timings.items()}
    growth = {
        part: medians["10,000"]["whole"][part] / medians["10,000"]["tenth"][part]
        for part in ("engine", "verification")
    }
    return {
        "unchanged_whole_seconds_at_tenfold": medians["unchanged"]["whole"]["whole_seconds"],
        "ten_thousand_changes_growth_ratio_at_tenfold": round(growth["engine"], 2),
        # Verification grows with the table, since all rows have to be verified within the same time.
        "ten_thousand_changes_verification_growth_ratio_at_tenfold": round(growth["verification"], 2),
        "growth_medians": medians,
    }


def show(timings: Timings) -> None:
    """Print a table per kind of load."""
    for kind, contenders in timings.items():
        table = Table(title=f"{kind}: seconds (median of {len(next(iter(contenders.values())))})")
        for heading in ("", "whole process", "parts"):
            table.add_column(heading, justify="right" if heading == "whole process" else "left")
        for name, medians in _medians(contenders).items():
            parts = ", ".join(
                f"{part} {value:.2f}" for part, value in medians.items() if part != "whole_seconds"
            )
            table.add_row(name, f"{medians['whole_seconds']:.2f}", parts)
        console.print(table)


def _medians(timings: Mapping[str, list[Timing]]) -> dict[str, dict[str, float]]:
    medians = {}
    for name, several in timings.items():
        medians[name] = {
            "whole_seconds": round(statistics.median(one.whole for one in several), 3),
            **{
                part: round(statistics.median(one.parts[part] for one in several), 3)
                for part in several[0].parts
            },
        }
        ratios = [one.source_rows_read_ratio for one in several if one.source_rows_read_ratio is not None]
        if ratios:
            medians[name]["source_rows_read_ratio"] = round(statistics.median(ratios), 3)
    return medians


def _circumstances(options: argparse.Namespace) -> dict[str, object]:
    return {
        "orders": options.orders,
        "days": options.days,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.capture", description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument(
        "--days", type=int, default=3, help="days of change, each followed by a run with none"
    )
    parser.add_argument(
        "--growth-only", action="store_true", help="compare no contenders, only this shop and a tenth of it"
    )
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    parser.add_argument("--without", nargs="*", default=[], choices=list(CONTENDERS), help="leave these out")
    options = parser.parse_args()
    options.contenders = [name for name in CONTENDERS if name not in options.without]
    uses_stack = "sling + dbt" in options.contenders and not options.growth_only
    if uses_stack and not (HERE.parent / ".venv" / "bin" / "sling").exists():
        sys.exit("bench/.venv is missing: run `make bench-capture`, or leave out --without 'sling + dbt'")
    return options


def _databases(postgres: EmbeddedPostgres, folder: Path, shop: str, name: str) -> Databases:
    postgres.create_database(name)
    (folder / name).mkdir()
    databases = Databases(shop, postgres.url(name), postgres.psql_path, folder / name)
    if name in ("ours", "small"):
        upgrade(databases.warehouse)
    return databases


def _measure(
    timings: Timings, kind: str, name: str, databases: Databases, load: Callable[[Databases], Timing]
) -> None:
    """Time one load, after the server has finished background work of earlier ones."""
    settle(databases.shop)
    timing = load(databases)
    timings.setdefault(kind, {}).setdefault(name, []).append(timing)
    parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in timing.parts.items())
    console.print(f"{kind:>10}  {name:<12} {timing.whole:7.2f} s ({parts})")


if __name__ == "__main__":
    main()
