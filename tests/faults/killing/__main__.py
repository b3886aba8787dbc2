"""`make fault-kill KILLS=N`: flows are killed and run again on servers of their own; a table and a JSON result."""

import argparse
import json
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.killing.harness import Result, run
from tests.faults.killing.world import World

RESULT = Path(__file__).parents[1] / "results" / "kill.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fault-kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--servers", type=int, default=2, help="how many are killed at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    # Whoever ends it early gets the result of the kills so far; servers and folders go first.
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    console = Console(log_path=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fault-kill-")))
        console.log(f"making {arguments.servers} servers")
        # One after the other: Alembic knows one migration at a time.
        worlds = [
            stack.enter_context(World(folder / f"server {number}")) for number in range(arguments.servers)
        ]
        result = run(worlds, arguments.kills, seed=arguments.seed, progress=console.log, stopping=stopping)
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result.figures(), indent=2) + "\n")
    show(console, result)
    return 1 if result.complaints else 0


def show(console: Console, result: Result) -> None:
    """The result as a person reads it."""
    figures = result.figures()
    table = Table("flow", "killed", "when", "kills that landed")
    for (flow, victim, when), count in sorted(result.landed.items()):
        table.add_row(flow, victim, when, str(count))
    console.print(table)
    console.print(
        f"{result.kills} kills landed in {result.seconds:.0f} s ({figures['seconds_per_kill']} s each), at "
        + " and ".join(
            f"{figures['points_struck'][flow]} of {points} points of {flow}"
            for flow, points in result.points.items()
        )
        + f"; {result.left_undone} left something to the next run, after the others the flow was through by itself."
    )
    for complaint in result.complaints:
        console.print(f"[red]{complaint}")
    if not result.complaints:
        console.print("[green]Each time the next run made of it what an undisturbed one makes.")


if __name__ == "__main__":
    sys.exit(main())
