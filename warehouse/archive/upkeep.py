"""What every run does for the archive: stop where too much waits for it, and add what has been published."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from warehouse.archive.flush import LOCK, WAIT_SECONDS, flush
from warehouse.archive.pending import is_due
from warehouse.archive.place import Archive
from warehouse.db.connections import connect
from warehouse.db.locks import is_held
from warehouse.errors import WarehouseError, summarize_error
from warehouse.runs.audit import Run
from warehouse.settings import Settings

Progress = Callable[[str], None]


class ArchiveBacklogExceeded(WarehouseError):
    """More runs wait for the archive than DWH_ARCHIVE_PENDING_RUNS allows."""

    exit_code = 3


def prepare(connection: psycopg.Connection, warehouse_url: str, settings: Settings) -> None:
    """Before a run: try to add what waits where it is too much. Without an archive, forget how far it reaches.

    Raises:
        ArchiveBacklogExceeded: it is still too much.
    """
    if not settings.archive:
        # What is published meanwhile is in no batch: if it is switched on again, tables are archived whole once. How
        # far each Delta table reaches is still true.
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
    warehouse_url: str,
    settings: Settings,
    *,
    wait_seconds: float = WAIT_SECONDS,
    progress: Progress = lambda _: None,
) -> str | None:
    """Add all published batches to the archive; returns why that was not possible, in one sentence.

    Nothing is raised: what is published is published, and waits.
    """
    try:
        flush(warehouse_url, Archive.of(settings), wait_seconds=wait_seconds, progress=progress)
    except Exception as error:
        return _summarize(error)
    return None


def add_due(warehouse_url: str, settings: Settings) -> str | None:
    """After a run: add all published batches if one is due; returns why that was not possible, in one sentence.

    Few rows wait for DWH_ARCHIVE_DELAY, so that small runs need not load what writes Delta: the next run adds them, or
    the watchdog. While another process adds batches, or maintains the archive, nobody waits for it.
    """
    try:
        with connect(warehouse_url, autocommit=True, application_name="dwh archive") as connection:
            if not is_due(connection, settings.archive_delay.total_seconds()) or is_held(connection, LOCK):
                return None
    except Exception as error:
        return _summarize(error)
    return add_published(warehouse_url, settings, wait_seconds=0)


def begin_to_add(run: Run, settings: Settings) -> None:
    """Begin to add what a run has published, while it goes on; `end_run` waits for it."""
    if run.is_archived:
        pool = ThreadPoolExecutor(1, "archive")
        run.adding.append(pool.submit(add_due, run.warehouse_url, settings))
        pool.shutdown(wait=False)


def end_run(run: Run, settings: Settings) -> str | None:
    """After a run, whose locks are free: as `add_due`, or wait for what has begun."""
    return run.adding[0].result() if run.adding else add_due(run.warehouse_url, settings)


def _summarize(error: Exception) -> str:
    return str(error) if isinstance(error, WarehouseError) else summarize_error(error)


def _pending_runs(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select count(distinct run_id) from audit.archive_pending where published_at is not null"
    ).fetchone()
    return int(row[0]) if row else 0
