"""A Prefect process worker with graceful shutdown: it takes no new runs, lets running ones finish, cancels the rest.

Prefect's own worker kills its runs at once, and they count as crashed. `python -m flows.worker POOL NAME SECONDS`.
"""

import asyncio
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psutil
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Crashed
from prefect.workers.process import ProcessWorker

# How long a cancelled run may take to roll back and to report its state.
CANCEL_SECONDS = 30.0
POLL_SECONDS = 0.2

with warnings.catch_warnings():
    # Prefect warns that this class replaces its own worker of type "process".
    warnings.simplefilter("ignore", UserWarning)

    class DrainingWorker(ProcessWorker):
        """A process worker that can drain, and that frees the slots of runs that were killed with its predecessor."""

        type = "process"

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._running: set[UUID] = set()
            self._is_draining = False
            self._is_first_round = True

        @property
        def at_work(self) -> set[UUID]:
            """Ids of the flow runs that it has taken and that have not ended."""
            return self._submitting_flow_run_ids | self._running

        async def get_and_submit_flow_runs(self) -> list[Any]:
            """Take the runs that are due; none while it drains."""
            if self._is_first_round:
                await self._free_dead_runs()
                self._is_first_round = False
            return [] if self._is_draining else await super().get_and_submit_flow_runs()

        async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
            """Run a flow run in a process of its own, until it has ended."""
            self._running.add(flow_run.id)
            try:
                return await super().run(flow_run, configuration, task_status)
            finally:
                self._running.discard(flow_run.id)

        async def _free_dead_runs(self) -> None:
            """Mark runs that were killed with a worker of this name as crashed, so that they free their slots."""
            taken = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
            flow_runs = await self.client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=taken))
                ),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
            )
            for flow_run in flow_runs:
                pid, is_pending = flow_run.infrastructure_pid, flow_run.state_type == StateType.PENDING
                is_gone = is_pending if pid is None else not _is_older_process(pid)
                if is_gone and flow_run.labels.get("prefect.worker.name") == self.name:
                    message = "Its process was killed with its worker."
                    await self.client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)

        async def drain(self, grace_seconds: float, is_hurried: Callable[[], bool]) -> None:
            """Take no more runs, wait `grace_seconds` for those at work, then cancel them and wait for their end."""
            self._is_draining = True
            until = time.monotonic() + grace_seconds
            while self.at_work and time.monotonic() < until and not is_hurried():
                await asyncio.sleep(POLL_SECONDS)
            for flow_run_id in sorted(self.at_work):
                await self.client.set_flow_run_state(
                    flow_run_id, Cancelling(message="Its worker is stopped.")
                )
            until = time.monotonic() + CANCEL_SECONDS
            while self.at_work and time.monotonic() < until:
                await asyncio.sleep(POLL_SECONDS)


def _is_older_process(pid: str) -> bool:
    """Return whether process `pid` exists and is older than this worker.

    After a container's restart, processes of this worker may have the pids of its predecessor's runs.
    """
    try:
        return psutil.Process(int(pid)).create_time() < psutil.Process().create_time()
    except (psutil.NoSuchProcess, ValueError):
        return False


async def work(pool: str, name: str | None, grace_seconds: float, *, healthcheck: bool = False) -> None:
    """Run flows of a work pool until SIGTERM or Ctrl-C, then drain; a second signal cancels what is still at work.

    Args:
        pool: Work pool whose runs it takes.
        name: Name under which the pool lists it.
        grace_seconds: How long runs at work may go on after the signal.
        healthcheck: Serve /health on PREFECT_WORKER_WEBSERVER_PORT, which reports whether it still polls for runs.
    """
    worker = DrainingWorker(work_pool_name=pool, name=name)
    signals, is_stopped = list[int](), asyncio.Event()

    def stop(number: int) -> None:
        signals.append(number)
        is_stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    working = asyncio.create_task(worker.start(with_healthcheck=healthcheck))
    stopped = asyncio.create_task(is_stopped.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        worker._logger.info("Takes no new runs; %s at work.", len(worker.at_work))
        await worker.drain(grace_seconds, lambda: len(signals) > 1)
        working.cancel()
    stopped.cancel()
    with suppress(asyncio.CancelledError):
        await working


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], float(sys.argv[3])))
