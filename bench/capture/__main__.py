"""Capture benchmark: first load, days of change, and runs with no change, ours beside what one would install.

In the end 10,000 changes are loaded from this shop and from one of a tenth of its size: what they cost must not grow.

`python -m bench.capture --orders 1000000 --days 3`; every contender loads the same shop on the same server. Prints
tables of seconds and ratios and writes bench/results/capture.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench.capture.contenders import CONTENDERS, HERE, ROOT, Databases, Timing
from generators.shop import create_schema, generate
from stack.postgres import EmbeddedPostgres
from warehouse.migrations import upgrade

console = Console()
BASELINE = "floor"


def main() -> None:
    """Measure, print, and keep the results."""
    options = _options()
    folder = ROOT / ".dwh" / "bench" / "capture"
    shutil.rmtree(folder, ignore_errors=True)
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    try:
        seconds = measure(postgres, folder, options)
        growth = measure_growth(postgres, folder, options) if "ours" in options.contenders else {}
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    results = summary(seconds, options) | growth
    show(seconds, results)
    path = ROOT / "bench" / "results" / "capture.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"kept in {path.relative_to(ROOT)}")


def measure(
    postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, list[Timing]]]:
    """Seconds by load (first, changed, unchanged) and contender."""
    shop = _make_shop(postgres, options)
    databases = {}
    for name in options.contenders:
        database = name.replace(" + ", "_")
        postgres.create_database(database)
        (folder / database).mkdir()
        databases[name] = Databases(shop, postgres.url(database), postgres.psql_path, folder / database)
    upgrade(databases["ours"].warehouse)
    seconds: dict[str, dict[str, list[Timing]]] = {}

    def load(kind: str, day: int) -> None:
        # Whoever goes first finds other caches: the order changes from day to day.
        order = (
            options.contenders[day % len(options.contenders) :]
            + options.contenders[: day % len(options.contenders)]
        )
        for name in order:
            _settle(postgres)
            timing = CONTENDERS[name](databases[name])
            seconds.setdefault(kind, {}).setdefault(name, []).append(timing)
            console.print(f"{kind:>10}  {name:<12} {_told(timing)}")

    load("first", 0)
    for day in range(1, options.days + 1):
        _change(databases["ours"], day, 50_000 / 1_000_000)
        load("changed", day)
        load("unchanged", day)
    return seconds


def measure_growth(
    postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace
) -> dict[str, object]:
    """What 10,000 changes cost with the tables that are there, beside tables of a tenth of the rows."""
    small = argparse.Namespace(**vars(options) | {"orders": options.orders // 10})
    shop = _make_shop(postgres, small, "small_shop")
    postgres.create_database("small")
    (folder / "small").mkdir()
    psql = postgres.psql_path
    sizes = {
        "tenth": Databases(shop, postgres.url("small"), psql, folder / "small"),
        "whole": Databases(postgres.url("shop"), postgres.url("ours"), psql, folder / "ours"),
    }
    upgrade(sizes["tenth"].warehouse)
    CONTENDERS["ours"](sizes["tenth"])
    engine: dict[str, list[float]] = {size: [] for size in sizes}
    for _ in range(options.days):
        for size, databases in sizes.items():
            with psycopg.connect(databases.shop) as connection:
                connection.execute((HERE / "ten_thousand.sql").read_bytes())
            _settle(postgres)
            timing = CONTENDERS["ours"](databases)
            engine[size].append(timing.parts["engine"])
            console.print(f"{'10,000':>10}  {size:<12} {_told(timing)}")
    tenth, whole = (statistics.median(engine[size]) for size in ("tenth", "whole"))
    return {
        "ten_thousand_changes_engine_seconds": {"tenth": round(tenth, 3), "whole": round(whole, 3)},
        "ten_thousand_changes_growth_ratio_at_tenfold": round(whole / tenth, 2),
    }


def summary(seconds: dict[str, dict[str, list[Timing]]], options: argparse.Namespace) -> dict[str, object]:
    """What is kept: medians, and the ratios by which we are judged."""
    medians = {
        kind: {
            name: {
                "whole_seconds": round(statistics.median(one.whole for one in timings), 3),
                **{
                    part: round(statistics.median(one.parts[part] for one in timings), 3)
                    for part in timings[0].parts
                },
            }
            for name, timings in contenders.items()
        }
        for kind, contenders in seconds.items()
    }
    changed = medians["changed"]
    results: dict[str, object] = {
        "incremental_ratio_to_floor": round(changed["ours"]["engine"] / changed[BASELINE]["engine"], 2),
        "first_load_ratio_to_floor": round(
            medians["first"]["ours"]["engine"] / medians["first"][BASELINE]["engine"], 2
        ),
        "unchanged_engine_seconds": medians["unchanged"]["ours"]["engine"],
    }
    if "sling + dbt" in changed:
        results["speedup_to_best_stack"] = round(
            changed["sling + dbt"]["whole_seconds"] / changed["ours"]["engine"], 2
        )
        results["speedup_to_best_stack_whole_process"] = round(
            changed["sling + dbt"]["whole_seconds"] / changed["ours"]["whole_seconds"], 2
        )
    return results | {
        "orders": options.orders,
        "days": options.days,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "medians": medians,
    }


def show(seconds: dict[str, dict[str, list[Timing]]], results: dict[str, object]) -> None:
    """Print a table per kind of load, and the ratios."""
    for kind, contenders in seconds.items():
        table = Table(title=f"{kind} load, seconds (median of {len(next(iter(contenders.values())))})")
        for heading in ("contender", "whole process", "parts", f"engine / {BASELINE}"):
            table.add_column(heading, justify="left" if heading in ("contender", "parts") else "right")
        base = statistics.median(one.whole for one in contenders[BASELINE])
        for name, timings in contenders.items():
            whole = statistics.median(one.whole for one in timings)
            parts = {part: statistics.median(one.parts[part] for one in timings) for part in timings[0].parts}
            told = ", ".join(f"{part} {took:.2f}" for part, took in parts.items())
            table.add_row(name, f"{whole:.2f}", told, f"{parts.get('engine', whole) / base:.2f}")
        console.print(table)
    for name in [name for name in results if "ratio" in name or "speedup" in name or "unchanged" in name]:
        console.print(f"{name}: {results[name]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.capture", description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument(
        "--days", type=int, default=3, help="days of change, each followed by a run with none"
    )
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    parser.add_argument("--without", nargs="*", default=[], choices=list(CONTENDERS), help="leave these out")
    options = parser.parse_args()
    options.contenders = [name for name in CONTENDERS if name not in options.without]
    if "sling + dbt" in options.contenders and not (HERE.parent / ".venv" / "bin" / "sling").exists():
        sys.exit("bench/.venv is missing: run `make bench-capture`, or leave out --without 'sling + dbt'")
    return options


def _make_shop(postgres: EmbeddedPostgres, options: argparse.Namespace, name: str = "shop") -> str:
    postgres.create_database(name)
    url = postgres.url(name)
    create_schema(url)
    scale = options.orders / 1_000_000
    console.print(f"generating a shop of {options.orders:,} orders")
    counts = generate(
        url,
        # The generator draws 2.77 items per order: so many orders have three million items.
        rows=round(1.083 * options.orders),
        companies=5_000,
        customers=max(round(100_000 * scale), 1000),
        products=max(round(50_000 * scale), 5000),
        until=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
    console.print(f"{counts['sales_order']:,} orders with {counts['order_item']:,} items")
    return url


def _change(databases: Databases, day: int, share: float) -> None:
    statements = (HERE / "changes.sql").read_text().replace(":day", str(day)).replace(":share", str(share))
    with psycopg.connect(databases.shop) as connection:
        connection.execute(statements.encode())


def _settle(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("checkpoint")


def _told(timing: Timing) -> str:
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in timing.parts.items())
    return f"{timing.whole:7.2f} s ({parts})"


if __name__ == "__main__":
    main()
