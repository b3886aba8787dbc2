"""Take back what a run published; under the same locks as the run, and recorded as a run of its own."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import say
from flows.outcome import Outcome
from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.runs.audit import Run
from warehouse.settings import Settings
from warehouse.undo import undo


def undo_run(run_id: int, *, cascade: bool = False) -> Outcome:
    """Take back run `run_id`; with `cascade` first the later ones that were built on it.

    Raises:
        UndoRefused: it cannot be taken back, or something later is in the way.
    """
    settings = located(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True) as connection:
        lock = undo.lock_of(connection, run_id)

    def take_back(run: Run) -> Outcome:
        undone = undo.undo(run, run_id, cascade=cascade, progress=say)
        return Outcome(undo.FLOW, run.run_id, undone.loads, undone=undone.run_ids)

    return acquired(
        settings.warehouse, undo.FLOW, take_back, lock=lock, parameters={"run_id": run_id, "cascade": cascade}
    )
