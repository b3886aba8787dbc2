"""`make fault-starts STARTS=N`: the same and different flows started at once; nothing doubled, no deadlock."""

import argparse
import itertools
import json
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from stack.files import tail
from tests.faults.flow_process import FlowProcess, Prepare
from tests.faults.killing.flows import SHOP, WEBLOGS
from tests.faults.killing.world import Place, World

FLOWS = (SHOP, WEBLOGS, "refresh-marts", "daily-warehouse")
RESULT = Path(__file__).parent / "results" / "starts.json"
# Who holds it, and since when; or, of a run of several flows, that it had to wait.
TOLD = re.compile(
    r"'(source shop|feed weblogs|marts|daily)' is being loaded by "
    r"dwh [a-z-]+(: web logs)?, run \d+ \(server process \d+, connected since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\)"
)
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Gate:
    """Called in a flow's process: says that it is there, and waits until the gate is open, which is a file."""

    opened: Path

    def __call__(self, says: Connection) -> None:
        says.send(("waiting",))
        while not self.opened.exists():
            time.sleep(0.002)


@dataclass
class Result:
    """What became of flows that were started at the same moment."""

    starts: int
    seconds: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The result for a JSON file."""
        return {
            "starts": self.starts,
            "seconds": round(self.seconds, 1),
            "ended": dict(sorted(self.ended.items())),
            "complaints": self.complaints,
        }


def start_together(
    world: World,
    starts: int,
    flows: Sequence[str] = FLOWS,
    *,
    sabotage: tuple[Prepare, ...] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Start so many flows at the same moment on one warehouse, by turns each of `flows`.

    `sabotage` is called in the process of each flow, before it.
    """
    result = Result(starts)
    expected = {flow: world.undisturbed(flow).after for flow in (SHOP, WEBLOGS)}
    begin = world.postgres.log.stat().st_size
    place = world.place(SHOP)
    gate = Gate(world.folder / f"gate of {place.database}")
    chosen = itertools.islice(itertools.cycle(flows), starts)
    processes = [(flow, place.start(flow, *sabotage, gate)) for flow in chosen]
    for _, process in processes:
        process.hear(PATIENCE_SECONDS)
    progress(f"{starts} flows stand ready")
    started = time.monotonic()
    gate.opened.touch()
    for flow, process in processes:
        _judge(flow, process, result)
    result.seconds = time.monotonic() - started
    log = tail(world.postgres.log, begin, size=1 << 30)
    if "deadlock detected" in log:
        _, _, who = log.partition("deadlock detected")
        result.complaints.append(f"the server has detected a deadlock: {who[:3000]}")
    _judge_content(place, set(flows), expected, result)
    world.remove(place)
    gate.opened.unlink()
    return result


def _judge(flow: str, process: FlowProcess, result: Result) -> None:
    code = process.end(PATIENCE_SECONDS)
    failures = [said for said in process.said if said[0] == "failed"]
    if code == 0:
        result.ended[f"{flow}: did it"] += 1
    elif failures and failures[0][1] == "LockHeld":
        result.ended[f"{flow}: gave up"] += 1
        if not TOLD.search(failures[0][2]):
            result.complaints.append(f"{flow} gave up and does not say for whom: {failures[0][2]}")
    else:
        result.complaints.append(f"{flow} ended with {code}: {failures}")


def _judge_content(place: Place, flows: set[str], expected: dict[str, Any], result: Result) -> None:
    loads_all = "daily-warehouse" in flows
    for flow, content in expected.items():
        if (loads_all or flow in flows) and (found := place.content(flow)) != content:
            wrong = sorted(table for table in content if content[table] != found.get(table))
            result.complaints.append(f"{flow} has made something else of {wrong}")
    left = place.rows("select run_id, flow from audit.run where status = 'running'")
    if left:
        result.complaints.append(f"the audit trail says that these are still running: {left}")
    held = place.rows(
        "select count(*) from pg_locks where locktype = 'advisory' "
        "and database = (select oid from pg_database where datname = current_database())"
    )
    if held != [(0,)]:
        result.complaints.append(f"locks are left: {held}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fault-starts", description=__doc__)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    # Whoever ends it, servers and folders go first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(log_path=False)
    figures = {}
    with (
        tempfile.TemporaryDirectory(prefix="fault-starts-") as folder,
        World(Path(folder) / "server") as world,
    ):
        for name, flows in (("the same flow", (SHOP,)), ("different flows", FLOWS)):
            result = start_together(world, arguments.starts, flows, progress=console.log)
            figures[name] = result.figures()
            console.print(name, figures[name])
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if any(one["complaints"] for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
