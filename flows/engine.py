"""Prefect, or plain functions where no Prefect server is: flows and tasks read the same either way."""

import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from pydantic import validate_call

from warehouse.db.connections import is_transient
from warehouse.errors import LockHeld
from warehouse.runs.audit import Run

P = ParamSpec("P")
R = TypeVar("R")
# What is decorated is called as before, whether it is a Prefect object by then or not.
F = TypeVar("F", bound=Callable[..., Any])

# Seconds before each retry; every wait is made longer or shorter by chance, so that runs do not retry in step.
DELAYS = (1.0, 2.0, 4.0, 8.0)
JITTER = 0.5

# The run that this code works for.
around: ContextVar[Run | None] = ContextVar("around", default=None)

_without_prefect = False
_log = logging.getLogger("dwh")


@dataclass(frozen=True)
class Identity:
    """Who runs: what audit.run remembers of the Prefect run, all empty without Prefect."""

    prefect_run_id: str | None = None
    deployment: str | None = None
    launched_by: str | None = None
    is_scheduled: bool = False


def run_without_prefect() -> None:
    """Make flows and tasks plain functions with the same retries; to be called before the flows are imported.

    Without a server Prefect starts one for each process, which costs 15 to 60 seconds.
    """
    global _without_prefect
    _without_prefect = True


def flow(name: str, covers: Callable[[], str]) -> Callable[[F], F]:
    """A flow whose runs are called `<name> <what it covers> <time>`; its parameters are validated by their types."""

    def run_name() -> str:
        return " ".join(filter(None, (name, covers(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M}")))

    def decorate(function: F) -> F:
        if _without_prefect:
            return validate_call(function)
        import prefect

        decorated: Any = prefect.flow(name=name, flow_run_name=run_name, persist_result=False)(
            _left_out_if_locked(function)
        )
        return cast(F, decorated)

    return decorate


def task(function: F) -> F:
    """One idempotent step of a flow, tried again after transient errors and after no others."""
    return task_called(None)(function)


def task_called(run_name: str | None) -> Callable[[F], F]:
    """The same for a step that is done several times: `run_name` tells its runs apart by their {parameters}."""

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


def say(message: str, level: int = logging.INFO) -> None:
    """Log a line: to logger dwh, which a terminal may listen to, and to the run in Prefect where there is one."""
    run = around.get()
    known = {"run_id": run.run_id, "flow": run.flow} if run else {}
    if prefect_run_id := identity().prefect_run_id:
        known["prefect_run_id"] = prefect_run_id
    _log.log(level, message, extra={"known": known})
    if is_tracked():
        from prefect import get_run_logger

        get_run_logger().log(level, message)


def is_tracked() -> bool:
    """Whether this code runs inside a Prefect flow run."""
    if _without_prefect:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def identity() -> Identity:
    """Who runs this flow, as far as Prefect knows."""
    if not is_tracked():
        return Identity()
    from prefect import runtime
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return Identity()
    launched_by = run.created_by.display_value if run.created_by else None
    if launched_by is None and run.auto_scheduled:
        launched_by = "schedule"
    return Identity(
        str(run.id), runtime.deployment.name if run.deployment_id else None, launched_by, run.auto_scheduled
    )


def _left_out_if_locked(function: Callable[P, R]) -> Callable[P, R]:
    """A run of a deployment whose lock another run holds is left out, and says so: it has not failed."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except LockHeld as held:
            if identity().deployment is None:
                raise
            from prefect.states import Completed

            return cast(R, Completed(name="Skipped", message=str(held)))

    return call


def run_parameters() -> dict[str, Any]:
    """Parameters of the Prefect run that is about to be named."""
    from prefect import runtime

    given: dict[str, Any] = runtime.flow_run.parameters
    return given


def pause_before(attempt: int) -> float:
    """Seconds to wait before the retry number `attempt` (from 0)."""
    return DELAYS[min(attempt, len(DELAYS) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)


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
                say(f"{function.__name__} failed ({error}); again in {pause:.1f} s", logging.WARNING)
                time.sleep(pause)
        return function(*args, **kwargs)

    return call


def _failed_transiently(task: Any, task_run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)
