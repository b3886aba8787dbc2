"""`make fault-capture COMMITS=N`: the capture fault harness on a server of its own, with a table and a JSON result."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.conftest import MAJOR, SETTINGS
from tests.faults.capturing.harness import Result, run
from warehouse.migrations.revisions import upgrade

RESULT = Path(__file__).parents[1] / "results" / "capture.json"
DATABASES = ("shop", "naive", "warehouse")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fault-capture", description=__doc__)
    parser.add_argument("--commits", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=40, help="spread them over at least so many runs")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument(
        "--range-rows", type=int, help="no table is small; each run verifies one key range of so many rows"
    )
    arguments = parser.parse_args()
    # Whoever ends it, servers and folders go first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(log_path=False)
    folder = Path(tempfile.mkdtemp(prefix="fault-capture-"))
    postgres = EmbeddedPostgres(folder / "postgres", MAJOR, SETTINGS | {"track_commit_timestamp": "on"})
    try:
        postgres.start()
        for name, make in zip(DATABASES, (create_schema, create_schema, upgrade), strict=True):
            postgres.create_database(name)
            make(postgres.url(name))
        result = run(
            postgres,
            DATABASES,
            folder,
            arguments.commits,
            arguments.runs,
            progress=console.log,
            range_rows=arguments.range_rows,
        )
    finally:
        postgres.stop()
        shutil.rmtree(folder)
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result.figures(), indent=2) + "\n")
    show(console, result)
    return 1 if result.complaints else 0


def show(console: Console, result: Result) -> None:
    """The result as a person reads it."""
    figures = result.figures()
    seconds, verifications = figures["run_seconds"], figures["verifications"]
    console.print(
        f"{figures['commits']:,} commits by {figures['writers']} writers, {figures['commits_per_second']:,} a second; "
        f"{figures['runs']} runs (median {seconds['median']:.1f} s, longest {seconds['longest']:.1f} s) read "
        f"{figures['rows_read']:,} rows for {figures['rows_changed']:,} changes; "
        f"{verifications['equal']} verifications equal, {verifications['different']} different."
    )
    table = Table("kind of write", "commits", "lost by naive", "stale in naive", "kept by naive", "engine")
    naive, engine = result.naive, result.engine
    kinds = {
        *result.by_kind,
        *naive.lost,
        *naive.stale,
        *naive.kept,
        *engine.lost,
        *engine.stale,
        *engine.kept,
    }
    for kind in sorted(kinds):
        wrong = engine.lost[kind] + engine.stale[kind] + engine.kept[kind]
        counts = (result.by_kind.get(kind, 0), naive.lost[kind], naive.stale[kind], naive.kept[kind], wrong)
        table.add_row(kind, *(f"{count:,}" for count in counts))
    table.add_section()
    sums = (result.commits, *(sum(c.values()) for c in (naive.lost, naive.stale, naive.kept)), engine.total)
    table.add_row(f"of {engine.rows:,} rows", *(f"{count:,}" for count in sums))
    console.print(table)
    for complaint in result.complaints:
        console.print(f"[red]{complaint}")
    if not result.complaints:
        console.print("[green]Nothing lost, duplicated or stale; the star agrees with its mirror.")


if __name__ == "__main__":
    sys.exit(main())
