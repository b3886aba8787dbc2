"""Decorators `flow` and `task`: of Prefect, or of plain functions with the same retries if there is no server."""

import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from threading import Lock, Timer
from typing import Any, ParamSpec, TypeVar, cast

from pydantic import validate_call

from warehouse.db.connection_errors import is_transient
from warehouse.errors import LockHeld, StepsFailed, WarehouseError, visible
from warehouse.runs.audit import Run

P = ParamSpec("P")
R = TypeVar("R")
# A decorated function keeps its signature, whether it becomes a Prefect object or not.
F = TypeVar("F", bound=Callable[..., Any])

# Seconds before each retry, varied at random by ± JITTER, so that runs do not retry at the same time.
DELAYS = (1.0, 2.0, 4.0, 8.0)
JITTER = 0.5

# The run of the warehouse that this code is part of; None outside of runs.
current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
# The deployment that started this flow, or the flow of which it is a step; None if a command started it.
launching_deployment: ContextVar[str | None] = ContextVar("launching_deployment", default=None)

_held_lines: ContextVar["HeldLines | None"] = ContextVar("held_lines", default=None)
_without_prefect = False
_logger = logging.getLogger("dwh")


@dataclass(frozen=True)
class PrefectRun:
    """What audit.run records about the Prefect run; all empty without Prefect."""

    prefect_run_id: str | None = None
    deployment: str | None = None
    launched_by: str | None = None
    is_scheduled: bool = False


def run_without_prefect() -> None:
    """Make flows and tasks plain functions with the same retries; call it before importing flows.

    Without a server, Prefect would start one for each process, which takes 15 to 60 seconds.
    """
    global _without_prefect
    _without_prefect = True


def flow(name: str, run_title: Callable[[], str] | None = None) -> Callable[[F], F]:
    """Make a function a flow: its runs are named `<run_title or name> <time>`, its parameters validated by type."""

    def run_name() -> str:
        return f"{run_title() if run_title else name} {datetime.now(UTC):%Y-%m-%dT%H:%M}"

    def decorate(function: F) -> F:
        if _without_prefect:
            return validate_call(function)
        import prefect

        decorated: Any = prefect.flow(name=name, flow_run_name=run_name, persist_result=False)(
            _end_in_states(function)
        )
        return cast(F, decorated)

    return decorate


def task(function: F) -> F:
    """Make a function a task: one idempotent step of a flow, retried after transient errors only."""
    return task_named(None)(function)


def task_named(run_name: str | None) -> Callable[[F], F]:
    """Make a function a task that a flow runs several times; `run_name` names each run, with {parameters} filled in."""

    def decorate(function: F) -> F:
        if _without_prefect:
            return cast(F, _retrying(function))
        import prefect
        from prefect.cache_policies import NO_CACHE

        decorated: Any = prefect.task(
            name=function.__name__.replace("_", "-"),
            task_run_name=run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(DELAYS),
            retry_delay_seconds=list(DELAYS),
            retry_jitter_factor=JITTER,
            retry_condition_fn=_failed_transiently,
        )(function)
        return cast(F, decorated)

    return decorate


def renamed(function: F, name: str) -> F:
    """The same flow under another name in Prefect."""
    return function if _without_prefect else cast(Any, function).with_options(name=name)


def log(message: str, level: int = logging.INFO) -> None:
    """Log a line to the logger `dwh`, which the command line prints, and to the Prefect run where there is one."""
    message = visible(message)
    run = current_run.get()
    ids = {"run_id": run.run_id, "flow": run.flow} if run else {}
    if prefect_run_id := prefect_run().prefect_run_id:
        ids["prefect_run_id"] = prefect_run_id
    _logger.log(level, message, extra={"ids": ids})
    if is_tracked():
        from prefect.context import FlowRunContext
        from prefect.logging.loggers import flow_run_logger

        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        logger, held = flow_run_logger(context.flow_run, flow=context.flow), _held_lines.get()
        if held is None or not held.keep(logger, level, message):
            logger.log(level, message)


class HeldLines:
    """Log lines of a Prefect run, held until it has changed something: 500 runs a day find nothing new to load.

    A warning, or a run that takes longer than `PATIENCE_SECONDS`, releases all of them at once.
    """

    PATIENCE_SECONDS = 20.0

    def __init__(self) -> None:
        self._lines: list[tuple[Any, int, str]] = []
        self._is_open = False
        self._lock = Lock()

    def keep(self, logger: Any, level: int, message: str) -> bool:
        """Hold a line, or release all held lines and return False if the caller has to log this one now."""
        with self._lock:
            if not self._is_open and level <= logging.INFO:
                self._lines.append((logger, level, message))
                return True
        self.release()
        return False

    def release(self) -> None:
        """Log the held lines, and hold none from now on."""
        with self._lock:
            self._is_open = True
            lines, self._lines = self._lines, []
        for logger, level, message in lines:
            logger.log(level, message)

    def drop(self) -> None:
        """Discard the held lines, and hold none from now on."""
        with self._lock:
            self._is_open, self._lines = True, []


@contextmanager
def held_lines() -> Iterator[HeldLines]:
    """Hold the lines that are logged to Prefect within the block; those still held at its end are logged."""
    held = HeldLines()
    timer = Timer(held.PATIENCE_SECONDS, held.release)
    timer.daemon = True
    timer.start()
    token = _held_lines.set(held)
    try:
        yield held
    finally:
        timer.cancel()
        _held_lines.reset(token)
        held.release()


def is_tracked() -> bool:
    """Return whether this code runs inside a Prefect flow run."""
    # Do not import Prefect, which takes long, just to find out: inside a flow run it has been imported.
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def prefect_run() -> PrefectRun:
    """The Prefect run that this code runs in."""
    if not is_tracked():
        return PrefectRun()
    from prefect import runtime
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return PrefectRun()
    launched_by = run.created_by.display_value if run.created_by else None
    if run.auto_scheduled:
        launched_by = "schedule"
    elif run.deployment_id:
        # A server without logins does not know who.
        launched_by = launched_by or "somebody in Prefect"
    return PrefectRun(
        str(run.id), runtime.deployment.name if run.deployment_id else None, launched_by, run.auto_scheduled
    )


def run_parameters() -> dict[str, Any]:
    """Parameters of the Prefect run that is about to be named."""
    from prefect import runtime

    given: dict[str, Any] = runtime.flow_run.parameters
    return given


def pause_before(attempt: int) -> float:
    """Seconds to wait before retry number `attempt` (from 0)."""
    return DELAYS[min(attempt, len(DELAYS) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)


def _end_in_states(function: Callable[P, R]) -> Callable[P, R]:
    """Return a Prefect state with a name of its own if a flow was skipped, or stopped on purpose.

    A deployment's run ends as Completed (Skipped) if another run holds its lock. A run that a quality gate, a threshold
    or a comparison stops ends as Failed under the error's name, as Delete threshold exceeded.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        deployment = prefect_run().deployment
        token = launching_deployment.set(deployment or launching_deployment.get())
        try:
            return function(*args, **kwargs)
        except LockHeld as held:
            if deployment is None:
                raise
            from prefect.states import Completed

            return cast(R, Completed(name="Skipped", message=str(held)))
        except WarehouseError as error:
            if error.exit_code != 3:
                raise
            from prefect.states import Failed

            return cast(R, Failed(name=state_name(error), message=str(error), data=error))
        finally:
            launching_deployment.reset(token)

    return call


def state_name(error: Exception) -> str:
    """Name the state of a run that was stopped by `error`, as Delete threshold exceeded.

    A flow with several stopped steps gets the name that they share, or Stopped if their names differ.
    """
    if isinstance(error, StepsFailed):
        names = {state_name(step) for step in error.failed.values()}
        return names.pop() if len(names) == 1 else "Stopped"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).capitalize()


def _retrying(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(len(DELAYS)):
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not is_transient(error):
                    raise
                pause = pause_before(attempt)
                log(f"{function.__name__} failed ({error}); retrying in {pause:.1f} s", logging.WARNING)
                time.sleep(pause)
        return function(*args, **kwargs)

    return call


def _failed_transiently(task: Any, task_run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)
