"""What an idle day leaves in Prefect, audit trail, logs, archive and home folder, counted; retention bounds each of it.

A day of schedules is not waited for: each flow is run once by the local stack's worker where nothing has changed, and
what that leaves is multiplied by how often its schedule comes in a day. `-s` prints the table.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from cronsim import CronSim

from flows.deployments import read_declarations
from stack import local
from stack.prefect import RETENTION
from warehouse.runs.retention import prune_audit

PATIENCE_SECONDS = 240
# Flows that come once a week, or have nothing to do with an idle day.
WEEKLY = ("geoip-update", "build-features")
DEPLOY = """
from dataclasses import replace
from flows.deploy import deploy
from flows.deployments import read_declarations
declared = read_declarations(["shop"])
deploy(replace(declared, deployments=[{**one, "schedules": []} for one in declared.deployments]))
"""
VACUUM = """
import asyncio
from prefect.server.database import provide_database_interface
from prefect.server.services import db_vacuum as vacuum

async def clean():
    db = provide_database_interface()
    # Steps of a day become runs of their own once the day is gone: they go in the next round.
    for _ in range(2):
        await vacuum.vacuum_old_flow_runs(db=db)
    await vacuum.vacuum_old_events(db=db)
    await vacuum.vacuum_orphaned_logs(db=db)
    await vacuum.vacuum_orphaned_artifacts(db=db)
    await vacuum.vacuum_stale_artifact_collections(db=db)

asyncio.run(clean())
"""
PREFECT = (
    "flow_run",
    "flow_run_state",
    "task_run",
    "task_run_state",
    "log",
    "artifact",
    "events",
    "event_resources",
)


@dataclass
class IdleStack:
    """A local stack whose worker has loaded everything: nothing changes any more."""

    home: Path
    environment: dict[str, str]
    api: str

    def dwh(self, *arguments: str) -> None:
        """Run a command of `dwh` to its end."""
        self.python("-m", "cli.main", *arguments)

    def python(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], env=self.environment, cwd=self.home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, path: str, body: object = None) -> Any:
        """Answer of the server; asked again where its database is busy."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.5)

    def run(self, name: str) -> None:
        """Let the worker run a deployment; returns when all that the run tells of itself has arrived."""
        deployment = self.ask(f"deployments/name/{name}/{name}")["id"]
        run_id = self.ask(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
        until(lambda: self.ask(f"flow_runs/{run_id}")["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"))
        state = self.ask(f"flow_runs/{run_id}")["state"]
        assert state["type"] == "COMPLETED", (name, state)
        before: Counter[str] | None = None
        while (counts := self.prefect()) != before:
            before = counts
            # Events are written every few seconds.
            time.sleep(6)

    def prefect(self) -> Counter[str]:
        """Rows of Prefect's tables."""
        with sqlite3.connect(f"file:{self.home}/prefect/prefect.db?mode=ro", uri=True) as database:
            return Counter(
                {name: database.execute(f"select count(*) from {name}").fetchone()[0] for name in PREFECT}
            )

    def audit(self) -> Counter[str]:
        """Rows of the tables of the audit trail."""
        with psycopg.connect(local.state(self.home).postgres.url("warehouse")) as warehouse:
            tables = warehouse.execute(
                "select relname from pg_class where relnamespace = 'audit'::regnamespace and relkind in ('r', 'p')"
            ).fetchall()
            return Counter(
                {
                    name: warehouse.execute(f'select count(*) from audit."{name}"').fetchone()[0]
                    for (name,) in tables
                }
            )

    def sizes(self) -> Counter[str]:
        """Bytes of Prefect's database without its free pages and of logs, files of the archive, and others at home."""
        with sqlite3.connect(f"file:{self.home}/prefect/prefect.db?mode=ro", uri=True) as database:
            pages, free, page = (
                database.execute(f"pragma {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        logs = [*self.home.rglob("*.log")]
        others = [
            path
            for path in self.home.rglob("*")
            if path.is_file() and path.suffix != ".log" and not path.is_relative_to(self.home / "postgres")
        ]
        archive = self.home / "lake" / "archive"
        return Counter(
            {
                "prefect.db bytes": (pages - free) * page,
                "log bytes": sum(log.stat().st_size for log in logs),
                "archive files": sum(path.is_file() for path in archive.rglob("*")),
                "other files": len([path for path in others if not path.is_relative_to(archive)]),
            }
        )

    def everything(self) -> Counter[str]:
        named = (
            {f"prefect {k}": v for k, v in self.prefect().items()},
            {f"audit {k}": v for k, v in self.audit().items()},
        )
        return Counter(named[0]) + Counter(named[1]) + self.sizes()

    def left_by(self, work: Callable[[], object]) -> Counter[str]:
        """What some work leaves."""
        before = self.everything()
        work()
        after = self.everything()
        after.subtract(before)
        return Counter({name: count for name, count in after.items() if count})


def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.3)


def runs_a_day() -> Mapping[str, int]:
    """How often the schedule of each flow comes in a day."""
    begin = datetime(2026, 11, 29, tzinfo=ZoneInfo("America/Sao_Paulo"))
    counts = {}
    for expected in read_declarations(["shop"]).expectations:
        times = CronSim(expected.cron, begin)
        counts[expected.flow] = sum(
            1 for _ in iter(lambda times=times: next(times) < begin + timedelta(days=1), False)
        )
    return counts


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdleStack]:
    home = tmp_path / "home"
    for name, value in {"HOME": home, "LAKE": home / "lake", "ARCHIVE": "true"}.items():
        monkeypatch.setenv(f"DWH_{name}", str(value))
    state = local.up(home)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    stack = IdleStack(home, kept | state.prefect_environment, str(state.api_url))
    worker = None
    try:
        stack.dwh("generate", "shop", "--rows", "100")
        stack.dwh("generate", "weblogs", "--lines", "1000")
        stack.python("-c", DEPLOY)
        with (home / "worker.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "flows.worker", "dwh", "local", "0"],
                env=stack.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
                cwd=home,
                stdout=log,
                stderr=log,
            )
        yield stack
    finally:
        if worker is not None:
            worker.terminate()
            worker.wait(60)
        local.down(home)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_idle_day_leaves_little_and_retention_bounds_it(stack: IdleStack) -> None:
    often = {name: count for name, count in runs_a_day().items() if name not in WEEKLY}
    for name in ("daily-warehouse", *often):
        stack.run(name)
    a_run = {name: stack.left_by(lambda name=name: stack.run(name)) for name in often}
    minute = stack.left_by(lambda: time.sleep(60))
    # Its first start leaves a row for each source.
    live_idle(stack, 10)
    live_minute = stack.left_by(lambda: live_idle(stack, 60))

    a_day: Counter[str] = Counter()
    for name, left in a_run.items():
        for what, count in left.items():
            a_day[what] += count * often[name]
    for what, count in minute.items():
        a_day[what] += count * 1440
    print_table(often, a_run, minute, live_minute, a_day)

    assert a_day["prefect flow_run"] >= sum(often.values())
    # A run is one line of the log, beside those of Prefect and its worker; each step of the day is a run, too. Only a
    # report that is written is something to look at.
    runs = {name: left["prefect flow_run"] for name, left in a_run.items()}
    assert {name for name, left in a_run.items() if left["prefect artifact"]} == {"publish-report"}
    assert {name for name, left in a_run.items() if left["prefect log"] > 6 * runs[name]} == set()
    assert {name for name, left in a_run.items() if left["prefect events"] > 17 * runs[name]} == set()
    # Live that finds nothing writes nothing.
    assert {name: count for name, count in live_minute.items() if name.startswith("audit")} == {}
    # Nothing is archived, and nothing is added to the home folder but logs and what databases keep.
    assert a_day["archive files"] == 0
    assert a_day["other files"] <= 2
    # 30 days of runs, two of events, 90 of the audit trail.
    assert a_day["prefect flow_run"] * 30 < 50_000
    assert sum(count for name, count in a_day.items() if name.startswith("audit")) * 90 < 1_000_000

    age_and_vacuum(stack)
    left = stack.prefect()
    assert {name: left[name] for name in PREFECT} == dict.fromkeys(PREFECT, 0)
    before = stack.audit()
    with psycopg.connect(local.state(stack.home).postgres.url("warehouse"), autocommit=True) as warehouse:
        warehouse.execute(
            """
            update audit.run set started_at = started_at - interval '99 days',
                ended_at = ended_at - interval '99 days'
            """
        )
        # A day goes after its steps.
        pruned = [prune_audit(warehouse, 90).runs for _ in range(3)]
        kept = warehouse.execute("select flow, count(*) from audit.run group by flow").fetchall()
    after = stack.audit()
    assert (sum(pruned), pruned[-1]) == (before["run"] - after["run"], 0)
    # Of each flow its last run, its last success, what loaded rows, and what has the last word on a table.
    assert max(count for _, count in kept) <= 4, kept


def live_idle(stack: IdleStack, seconds: float) -> None:
    """Follow the sources for so long, while nothing happens there; it has already begun when the time begins."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "live"],
        env=stack.environment,
        cwd=stack.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.terminate()
    process.wait(60)


def age_and_vacuum(stack: IdleStack) -> None:
    """Make everything that Prefect has two months older, and let its vacuum work as it does every hour."""
    old = (datetime.now(UTC) - timedelta(days=60)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(stack.home / "prefect" / "prefect.db", timeout=60) as database:
        database.execute("update flow_run set end_time = ? where end_time is not null", [old])
        database.execute("update events set occurred = ?", [old])
        database.execute("update event_resources set occurred = ?", [old])
    environment = stack.environment | RETENTION
    # The database itself, not the server in front of it.
    environment.pop("PREFECT_API_URL")
    subprocess.run([sys.executable, "-c", VACUUM], env=environment, check=True, capture_output=True)


def print_table(
    often: Mapping[str, int],
    a_run: Mapping[str, Counter[str]],
    minute: Counter[str],
    live_minute: Counter[str],
    a_day: Counter[str],
) -> None:
    for name, left in a_run.items():
        print(f"{name} ({often[name]} a day): {dict(sorted(left.items()))}")  # noqa: T201
    for name, one in (("a minute without runs", minute), ("a minute of live", live_minute), ("a day", a_day)):
        print(f"{name}: {dict(sorted(one.items()))}")  # noqa: T201
