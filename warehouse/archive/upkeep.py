"""Archive steps of every run: refuse to start if too many batches are pending, and add published batches at the end."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from warehouse.archive.flush import LOCK, WAIT_SECONDS, flush
from warehouse.archive.pending import is_due
from warehouse.archive.place import Archive
from warehouse.db.connections import connect
from warehouse.db.locks import is_held
from warehouse.errors import WarehouseError, summarize_error
from warehouse.runs.audit import Run
from warehouse.runs.live_process import read_processes
from warehouse.settings import Settings


class ArchiveBacklogExceeded(WarehouseError):
    """More runs have pending batches than DWH_ARCHIVE_PENDING_RUNS allows."""

    exit_code = 3


def prepare(connection: psycopg.Connection, warehouse_url: str, settings: Settings) -> None:
    """Before a run, add pending batches if there are too many. With the archive off, reset the capture state.

    Raises:
        ArchiveBacklogExceeded: there are still too many.
    """
    if not settings.archive:
        # Runs without the archive make no batches, so all rows have to be archived once it is on again. Keep the
        # archived_… columns: what is in each Delta table stays there.
        connection.execute(
            """
            update audit.archive_table set columns = null, captured_run_id = null, last_key = null, changes_until = null
            where changes_until is not null or captured_run_id is not null
            """
        )
        return
    if _pending_runs(connection) < settings.archive_pending_runs:
        return
    reason = add_published(warehouse_url, settings)
    if (pending := _pending_runs(connection)) >= settings.archive_pending_runs:
        raise ArchiveBacklogExceeded(
            f"{pending:,} runs wait for the archive; DWH_ARCHIVE_PENDING_RUNS allows "
            f"{settings.archive_pending_runs:,}. {reason or ''}".rstrip(),
            hint="Nothing was changed. `dwh archive` adds what waits, once the archive can be reached; "
            "DWH_ARCHIVE=false turns the archive off.",
        )


def add_published(
    warehouse_url: str, settings: Settings, *, wait_seconds: float = WAIT_SECONDS
) -> str | None:
    """Add all published batches to the archive. Returns None, or in one sentence why it failed; never raises.

    After a failure the batches stay pending: the run's data is published all the same.
    """
    try:
        flush(warehouse_url, Archive.of(settings), wait_seconds=wait_seconds)
    except Exception as error:
        return _summarize(error)
    return None


def add_due(warehouse_url: str, settings: Settings, *, at_once: bool = False) -> str | None:
    """After a run, add all published batches if one is due. Returns None, or in one sentence why it failed.

    While a live process is at work, a few rows stay pending for DWH_ARCHIVE_DELAY, and become one file; not `at_once`.
    If another process is adding batches, returns at once: that process adds what has become due meanwhile, and so do
    maintenance runs of the archive when they end.
    """
    while True:
        try:
            with connect(warehouse_url, autocommit=True, application_name="dwh archive") as connection:
                is_live = any(one.is_alive for one in read_processes(connection))
                delay = settings.archive_delay.total_seconds() if is_live and not at_once else 0
                if not is_due(connection, delay) or is_held(connection, LOCK):
                    return None
        except Exception as error:
            return _summarize(error)
        # What live publishes meanwhile is its own to add: there would be no end to it.
        if (failure := add_published(warehouse_url, settings, wait_seconds=0)) or is_live:
            return failure


def begin_to_add(run: Run, settings: Settings) -> None:
    """Start to add a run's published batches in the background; `end_run` waits for it."""
    if run.is_archived:
        pool = ThreadPoolExecutor(1, "archive")
        run.adding.append(pool.submit(add_due, run.warehouse_url, settings))
        pool.shutdown(wait=False)


def end_run(run: Run, settings: Settings) -> str | None:
    """After a run has released its locks, wait for `begin_to_add`; without one, do `add_due` now."""
    return run.adding[0].result() if run.adding else add_due(run.warehouse_url, settings)


def _summarize(error: Exception) -> str:
    return str(error) if isinstance(error, WarehouseError) else summarize_error(error)


def _pending_runs(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select count(distinct run_id) from audit.archive_pending where published_at is not null"
    ).fetchone()
    return int(row[0]) if row else 0
