"""A worker that is stopped: what it has taken finishes or is cancelled. Cancelled and killed runs say so everywhere."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil
import psycopg
import pytest

from flows.deploy import deploy
from stack.files import free_port
from tests.flows.conftest import deployments_lock
from tests.flows.test_deployments import unscheduled
from tests.pipeline import Pipeline

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PATIENCE_SECONDS = 240
# As `python -m flows.worker`, but a run that is cancelled may take longer to end: with the worker it would be killed.
WORKER = """
import asyncio, sys
from flows import worker
worker.CANCEL_SECONDS = 200
asyncio.run(worker.work(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


class Working:
    """A worker with a pool of its own, and runs of ingest-shop that wait for a table that the test has locked."""

    def __init__(self, client: "SyncPrefectClient", place: Pipeline, folder: Path) -> None:
        self.client, self.place = client, place
        self._pool, self._log = f"test-{uuid.uuid4().hex[:8]}", folder / "worker.log"
        self._ids = deploy(unscheduled("refresh-marts"), self._pool, folder).ids
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, grace_seconds: str) -> None:
        """Start a worker that gives its runs so many seconds when it is stopped."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, self._pool, "test", grace_seconds],
            cwd=self._folder,
            env={
                **os.environ,
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
            },
            stdout=self._log.open("a"),
            stderr=subprocess.STDOUT,
        )

    def begin(self) -> UUID:
        """Ask for a run; returns when it waits for the locked table."""
        flow_run_id = self.client.create_flow_run_from_deployment(self._ids["ingest-shop"]).id
        self.until(self.is_waiting)
        return flow_run_id

    def is_waiting(self) -> bool:
        """Whether a run is at work in the warehouse and waits for the source."""
        return self.place.rows("select count(*) from audit.run where status = 'running'") == [(1,)]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < give_up_at, self._log.read_text()
            time.sleep(0.2)

    def ended(self, flow_run_id: UUID) -> Any:
        """State in which a flow run has ended."""
        self.until(lambda: self.client.read_flow_run(flow_run_id).state.is_final())
        return self.client.read_flow_run(flow_run_id).state

    def lines(self, flow_run_id: UUID) -> list[str]:
        """The log of a flow run, as far as it has arrived."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
        return [one.message for one in self.client.read_logs(log_filter=mine)]

    def audited(self) -> list[tuple[Any, ...]]:
        """Status of each run in the audit trail, and mails."""
        return [
            *self.place.rows("select status from audit.run where flow = 'ingest-shop' order by run_id"),
            *self.place.rows("select kind, problem from audit.outbox order by created_at"),
        ]


@pytest.fixture
def working(
    prefect_server: None, place: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Working]:
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("DWH_ALERT_TO", "team@example.com")
    monkeypatch.setenv("DWH_SMTP_URL", f"smtp://127.0.0.1:{free_port()}")
    with get_client(sync_client=True) as client, deployments_lock():
        working = Working(client, place, tmp_path)
        yield working
        if working.process is not None:
            working.process.kill()
            working.process.wait()


def test_run_that_is_cancelled_in_the_ui_or_with_its_worker_is_cancelled_everywhere_and_not_mailed(
    working: Working, place: Pipeline
) -> None:
    from prefect.states import Cancelling

    working.start("0")
    with psycopg.connect(place.shop_url) as lock:
        lock.execute("lock table product")
        cancelled = working.begin()
        # What the button in the UI does.
        working.client.set_flow_run_state(cancelled, Cancelling())
        assert working.ended(cancelled).name == "Cancelled"
        assert working.audited() == [("cancelled",)]
        working.until(lambda: "Run 1 is cancelled: stopped by SIGTERM." in working.lines(cancelled))

        # Its worker is stopped, and gives its runs no time.
        drained = working.begin()
        working.process.send_signal(signal.SIGTERM)
        assert working.process.wait(PATIENCE_SECONDS) == 0
        assert working.ended(drained).name == "Cancelled"
        assert working.audited() == [("cancelled",), ("cancelled",)]
        assert place.facts() == []


def test_worker_frees_what_one_of_its_name_had_taken_when_it_was_killed(working: Working) -> None:
    from prefect.states import Pending, Running, State

    def taken(name: str, pid: int | None = None, *states: State) -> UUID:
        flow_run_id = working.client.create_flow_run_from_deployment(working._ids["refresh-marts"]).id
        for state in (Pending(), *states):
            answer = working.client.set_flow_run_state(flow_run_id, state, force=True)
            assert answer.state.type == state.type
        labels = {"prefect.worker.name": name}
        response = working.client._client.patch(f"/flow_runs/{flow_run_id}/labels", json=labels)
        response.raise_for_status()
        if pid is not None:
            working.client.update_flow_run(flow_run_id, infrastructure_pid=str(pid))
        return flow_run_id

    # A process that is older than the worker is at work on it; the killed worker's own number may be another's now.
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = [taken("other"), taken("test", os.getpid()), taken("test", os.getpid(), Running())]
    left += [taken("test", None, Running()), taken("other", 2**22, Running())]
    dead = [taken("test"), taken("test", killed.pid), taken("test", 2**22, Running())]
    working.start("0")
    for flow_run_id in dead:
        state = working.ended(flow_run_id)
        assert (state.name, state.message) == ("Crashed", "Its process was killed with its worker.")
    for flow_run_id in left:
        assert not working.client.read_flow_run(flow_run_id).state.is_final()
        working.client.delete_flow_run(flow_run_id)


@pytest.mark.slow
def test_run_finishes_while_its_worker_drains_and_one_that_is_killed_is_crashed(
    working: Working, place: Pipeline
) -> None:
    from flows.watchdog import watchdog

    working.start("0")
    with psycopg.connect(place.shop_url) as lock:
        lock.execute("lock table product")
        killed = working.begin()
        [(pid,)] = place.rows("select pid from audit.run where status = 'running'")
        psutil.Process(pid).kill()
        assert working.ended(killed).name == "Crashed"
        watchdog()
        assert working.audited() == [("crashed",), ("crashed", "ingest-shop crashed")]
        assert place.rows("select error like 'The process is gone%%' from audit.run where run_id = 1") == [
            (True,)
        ]

        working.process.send_signal(signal.SIGTERM)
        assert working.process.wait(PATIENCE_SECONDS) == 0
        working.start("60")
        finished = working.begin()
        working.process.send_signal(signal.SIGTERM)
        time.sleep(3)
        later = working.client.create_flow_run_from_deployment(working._ids["refresh-marts"]).id
        lock.rollback()
        assert working.process.wait(PATIENCE_SECONDS) == 0
        assert working.client.read_flow_run(finished).state.name == "Completed"
        assert working.client.read_flow_run(later).state.type.value == "SCHEDULED"
        assert working.audited()[:2] == [("crashed",), ("succeeded",)]
        assert len(place.facts()) == 1


@pytest.mark.slow
def test_run_outlives_its_worker_and_one_that_dies_with_it_is_crashed_once(
    working: Working, place: Pipeline
) -> None:
    from flows.watchdog import watchdog

    working.start("0")
    with psycopg.connect(place.shop_url) as lock:
        lock.execute("lock table product")
        # kill -9 of the worker alone.
        outlives = working.begin()
        working.process.kill()
        working.process.wait()
        lock.rollback()
        assert working.ended(outlives).name == "Completed"

        # As a container ends: the worker and all that it has started.
        lock.execute("lock table product")
        working.start("0")
        dies = working.begin()
        worker = psutil.Process(working.process.pid)
        doomed = [worker, *worker.children(recursive=True)]
        for process in doomed:
            process.kill()
        psutil.wait_procs(doomed, PATIENCE_SECONDS)
        working.process.wait()
        for _ in range(2):
            watchdog()
        assert working.client.read_flow_run(dies).state.name == "Crashed"
        assert working.audited() == [("succeeded",), ("crashed",), ("crashed", "ingest-shop crashed")]
        ((error,),) = place.rows("select error from audit.run where status = 'crashed'")
        assert error.startswith("The process is gone")
