"""Feed benchmark: order files into the star, ours beside dlt (nested JSON into PostgreSQL) and a DuckDB script.

`python -m bench.feeds --orders 400000`; every contender loads the same files into a database of its own on the same
server. Prints items a second and writes bench/results/feeds.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from generators.orders import generate
from stack.postgres import EmbeddedPostgres
from warehouse.migrations import upgrade

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "bench" / ".venv" / "bin" / "python"
console = Console()


def main() -> None:
    """Measure, print, and keep the results."""
    options = _options()
    folder = ROOT / ".dwh" / "bench" / "feeds"
    shutil.rmtree(folder, ignore_errors=True)
    landing = folder / "lake" / "landing" / "orders"
    # DuckDB and dlt stop at records that cannot be read: there are none.
    made = generate(landing, orders=options.orders // options.files, days=options.files, defects=0)
    console.print(f"{made.orders:,} orders, {made.items:,} items in {len(made.files)} files")
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    rates: dict[str, list[float]] = {}
    try:
        for round_ in range(options.rounds):
            # Whoever goes first finds other caches.
            first = round_ % len(options.contenders)
            for name in options.contenders[first:] + options.contenders[:first]:
                database = f"{name}_{round_}"
                postgres.create_database(database)
                found = _load(name, postgres.url(database), landing, folder)
                if found["items"] != made.items:
                    console.print(f"{name}: {found['items']:,} of {made.items:,} items are there")
                rates.setdefault(name, []).append(found["items"] / found["seconds"])
                console.print(f"{name:<8} {found['seconds']:8.2f} s  {rates[name][-1]:10,.0f} items a second")
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    path = ROOT / "bench" / "results" / "feeds.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {
        "items_per_second": medians.get("ours"),
        "speedup_to_dlt": round(medians["ours"] / medians["dlt"], 2)
        if {"ours", "dlt"} <= medians.keys()
        else None,
        "items_per_second_by_tool": medians,
        "orders": made.orders,
        "items": made.items,
        "rounds": options.rounds,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"kept in {path.relative_to(ROOT)}")


def _load(name: str, url: str, landing: Path, folder: Path) -> dict[str, float]:
    if name == "ours":
        upgrade(url)
        command = [sys.executable, "-m", "bench.feeds.ours", url, str(folder / "lake")]
    else:
        state = folder / f"{name} state"
        shutil.rmtree(state, ignore_errors=True)
        tool = Path(__file__).parent / "tools" / f"{name}_load.py"
        command = [str(TOOLS), str(tool), str(landing), url, str(state)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=400_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", type=int, default=18)
    parser.add_argument("--contenders", nargs="+", default=["ours", "dlt", "duckdb"])
    return parser.parse_args()


main()
