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

from tests.faults.killing.flows import FLOWS
from tests.faults.killing.harness import Result, run
from tests.faults.killing.world import World

RESULT = Path(__file__).parents[1] / "results" / "kill.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fault-kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument(
        "--flow", action="append", choices=[*FLOWS], help="only this; the result keeps the others"
    )
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
        flows = arguments.flow or FLOWS
        result = run(
            worlds, arguments.kills, flows=flows, seed=arguments.seed, progress=console.log, stopping=stopping
        )
    figures = result.figures()
    if arguments.flow and arguments.result.exists():
        figures = json.loads(arguments.result.read_text()) | figures
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(
        json.dumps({flow: figures[flow] for flow in FLOWS if flow in figures}, indent=2) + "\n"
    )
    show(console, result)
    return 1 if result.complaints else 0


def show(console: Console, result: Result) -> None:
    """The result as a person reads it."""
    table = Table("flow", "points", "struck", "kills", "left to the next run", "seconds per kill")
    for flow, one in result.figures().items():
        counts = (one["points"], one["points_struck"], sum(one["kills"].values()))
        table.add_row(flow, *map(str, (*counts, one["left_to_the_next_run"], one["seconds_per_kill"])))
    console.print(table)
    for kill, what in result.complaints:
        console.print(f"[red]{kill}: {what}")
    if not result.complaints:
        console.print(
            f"[green]After each of {result.kills} kills the next run made what an undisturbed one makes."
        )


if __name__ == "__main__":
    sys.exit(main())
