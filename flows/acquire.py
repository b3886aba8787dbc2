"""Acquire a run: its row in the audit trail, its lock, and evidence of it in Prefect however it ends."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from flows.artifacts import show_run
from flows.databases import bring_back
from flows.engine import DELAYS, around, identity, pause_before, say
from flows.notify import alert_rules, send_mail
from warehouse.db import locks
from warehouse.db.connections import is_transient
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import LockHeld, RunLost, UndoRefused
from warehouse.runs.audit import Run, start_run

R = TypeVar("R")

# How long a server may take to notice that a lost connection is gone, and to free its locks.
LINGERING_SECONDS = 60.0
# A step of a flow of flows waits for whoever loads the same; who starts a flow by itself is told at once.
STEP_PATIENCE_SECONDS = 900.0


def acquired(
    warehouse_url: str,
    flow: str,
    work: Callable[[Run], R],
    *,
    lock: str,
    shared: bool = False,
    parameters: Mapping[str, object] | None = None,
    dry_run: bool = False,
) -> R:
    """Do `work` as a run of `flow` that alone holds `lock`, or together with others where it is `shared`.

    The locks of a run live on its own connection. Where that breaks, everything begins again as a new run: another
    one may have loaded the same source meanwhile, so that what was staged is worth nothing. A `dry_run` holds the same
    locks, is rolled back, and tells nobody.

    Raises:
        LockHeld: another run has it.
        SchemaOutdated: the warehouse lacks migrations of this code.
    """
    attempt, wait_seconds = 0, STEP_PATIENCE_SECONDS if around.get() else 0.0
    while True:
        begun = False
        try:
            # No news: whoever holds the lock does the work, a lost run begins again, who wants an undo is told.
            untold = (LockHeld, UndoRefused, *((RunLost,) if attempt < len(DELAYS) else ()))
            with _run(warehouse_url, flow, lock, shared, parameters, wait_seconds, untold, dry_run) as run:
                begun = True
                return work(run)
        except Exception as error:
            may_pass = isinstance(error, RunLost) or (not begun and is_transient(error))
            if not may_pass or attempt == len(DELAYS):
                raise
            pause = pause_before(attempt)
            say(f"{error} It begins again in {pause:.1f} s.", logging.WARNING)
            time.sleep(pause)
            bring_back(warehouse_url)
        attempt, wait_seconds = attempt + 1, max(wait_seconds, LINGERING_SECONDS)


@contextmanager
def _run(
    url: str,
    flow: str,
    lock: str,
    shared: bool,
    parameters: Mapping[str, object] | None,
    wait_seconds: float,
    untold: tuple[type[BaseException], ...],
    dry_run: bool,
) -> Iterator[Run]:
    ensure_migrated(url)
    who, outer = identity(), around.get()
    run_id = None
    try:
        with start_run(
            url,
            flow=flow,
            deployment=who.deployment,
            prefect_run_id=who.prefect_run_id,
            launched_by=who.launched_by,
            parameters=parameters,
            parent_run_id=outer.run_id if outer else None,
            rules=alert_rules(*untold),
            dry_run=dry_run,
        ) as run:
            run_id = run.run_id
            with locks.session_lock(
                run.connection, lock, shared=shared, wait_seconds=wait_seconds, waiting=say
            ):
                token = around.set(run)
                try:
                    yield run
                finally:
                    around.reset(token)
    finally:
        if run_id is not None:
            show_run(url, run_id)
            if not dry_run:
                send_mail(url)
