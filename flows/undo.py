"""Undo what a run published, under the same locks as that run; recorded as a run of its own."""

from flows.databases import with_urls
from flows.engine import log
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.runs.audit import Run
from warehouse.settings import Settings
from warehouse.undo import undo


def undo_run(run_id: int, *, cascade: bool = False) -> FlowResult:
    """Undo run `run_id`; with `cascade` first the later runs that were built on it.

    Raises:
        UndoRefused: it cannot be undone, or later runs were built on it.
    """
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True) as connection:
        lock = undo.lock_of(connection, run_id)

    def undo_changes(run: Run) -> FlowResult:
        undone = undo.undo(run, run_id, cascade=cascade, progress=log)
        return FlowResult(undo.FLOW, run.run_id, undone.loads, undone=undone.run_ids)

    return run_locked(
        settings.warehouse,
        undo.FLOW,
        undo_changes,
        lock=lock,
        parameters={"run_id": run_id, "cascade": cascade},
    )
