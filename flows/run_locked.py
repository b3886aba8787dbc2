"""Do work as a run: record it in audit.run, hold a lock, start again if connections break, create artifacts, mail."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from flows.artifacts import show_run
from flows.databases import restart_server
from flows.engine import DELAYS, current_run, held_lines, log, pause_before, prefect_run
from flows.notify import alert_rules, send_mail
from flows.ui_hints import add_ui_steps
from warehouse.archive import upkeep
from warehouse.db import locks
from warehouse.db.connection_errors import is_transient
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import LockHeld, RunLost, UndoRefused, WarehouseError, summarize_error
from warehouse.runs.audit import Run, start_run, status_of
from warehouse.runs.lock_watch import watch_locks
from warehouse.settings import Settings

R = TypeVar("R")

# How long a server may take to notice that our connection is lost, and to release its locks.
LINGERING_SECONDS = 60.0
# A step of another flow waits for the lock this long; a flow that is started by itself fails at once.
STEP_PATIENCE_SECONDS = 900.0


def run_locked(
    warehouse_url: str,
    flow: str,
    work: Callable[[Run], R],
    *,
    lock: str,
    shared: bool = False,
    parameters: Mapping[str, object] | None = None,
    dry_run: bool = False,
    before_lock: Callable[[Run], None] = lambda _: None,
) -> R:
    """Do `work` as a run of `flow` that holds `lock`, exclusively or, if `shared`, together with others that share it.

    The locks of a run belong to its connection. If that breaks, the work starts again as a new run: another run may
    have loaded the same source meanwhile, so that the staged rows are outdated. A `dry_run` takes the same locks, is
    rolled back and sends no mail. `before_lock` is called before the lock is taken, which others may still hold.

    Raises:
        LockHeld: another run holds the lock.
        SchemaOutdated: migrations of this code have not been applied to the warehouse.
    """
    attempt, wait_seconds = 0, STEP_PATIENCE_SECONDS if current_run.get() else 0.0
    while True:
        begun = False
        try:
            # Errors without mail: the holder of the lock does the work, a lost run starts again, and a user who undoes
            # a run sees the refusal.
            unreported = (LockHeld, UndoRefused, *((RunLost,) if attempt < len(DELAYS) else ()))
            with _run(
                warehouse_url, flow, lock, shared, parameters, wait_seconds, unreported, dry_run, before_lock
            ) as run:
                begun = True
                try:
                    return work(run)
                except WarehouseError as error:
                    # Prefect's UI, the audit trail and the mail all show this hint.
                    error.hint = add_ui_steps(error.hint)
                    raise
                except Exception:
                    raise
                except BaseException as stop:
                    # Ctrl-C, or a signal by which Prefect cancels the run or its worker is stopped.
                    if status_of(stop) == "cancelled":
                        log(f"Run {run.run_id} is cancelled: {summarize_error(stop)}.", logging.WARNING)
                    raise
        except Exception as error:
            may_pass = isinstance(error, RunLost) or (not begun and is_transient(error))
            if not may_pass or attempt == len(DELAYS):
                raise
            pause = pause_before(attempt)
            log(f"{error} Starting again in {pause:.1f} s.", logging.WARNING)
            time.sleep(pause)
            restart_server(warehouse_url)
        attempt, wait_seconds = attempt + 1, max(wait_seconds, LINGERING_SECONDS)


@contextmanager
def _run(
    url: str,
    flow: str,
    lock: str,
    shared: bool,
    parameters: Mapping[str, object] | None,
    wait_seconds: float,
    unreported: tuple[type[BaseException], ...],
    dry_run: bool,
    before_lock: Callable[[Run], None],
) -> Iterator[Run]:
    settings = Settings.load()
    ensure_migrated(url, settings.time_zone)
    launcher, outer = prefect_run(), current_run.get()
    with held_lines() as held:
        started: Run | None = None
        try:
            with start_run(
                url,
                flow=flow,
                deployment=launcher.deployment,
                prefect_run_id=launcher.prefect_run_id,
                launched_by=launcher.launched_by,
                parameters=parameters,
                parent_run_id=outer.run_id if outer else None,
                rules=alert_rules(*unreported),
                dry_run=dry_run,
                archive=settings.archive,
            ) as run:
                started = run
                if not dry_run:
                    upkeep.prepare(run.connection, url, settings)
                before_lock(run)
                with locks.session_lock(
                    run.connection, lock, shared=shared, wait_seconds=wait_seconds, waiting=log
                ):
                    token = current_run.set(run)
                    try:
                        with watch_locks(url, flow, settings.warehouse_lock_wait, log):
                            yield run
                    finally:
                        current_run.reset(token)
        finally:
            if started is not None:
                if show_run(url, started.run_id) == "no change":
                    held.drop()
                    log(f"Run {started.run_id}: no change.")
                if not dry_run:
                    if settings.archive and (failure := upkeep.end_run(started, settings)):
                        log(failure, logging.WARNING)
                    send_mail(url)
