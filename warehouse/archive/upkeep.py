"""What every run does for the archive: stop where too much waits for it, and add what has been published."""

from collections.abc import Callable

import psycopg

from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.errors import SettingsError, WarehouseError
from warehouse.runs.audit import Run
from warehouse.settings import Settings

Progress = Callable[[str], None]


class ArchiveBehind(WarehouseError):
    """More runs wait for the archive than DWH_ARCHIVE_PENDING_RUNS allows."""

    exit_code = 3


def prepare(connection: psycopg.Connection, warehouse_url: str, settings: Settings) -> None:
    """Before a run: try to add what waits where it is too much. Without an archive, forget how far it reaches.

    Raises:
        ArchiveBehind: it is still too much.
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
        raise ArchiveBehind(
            f"{pending:,} runs wait for the archive; DWH_ARCHIVE_PENDING_RUNS allows "
            f"{settings.archive_pending_runs:,}. {reason or ''}".rstrip(),
            hint="Nothing was changed. `dwh archive` adds what waits, once the archive can be reached; "
            "DWH_ARCHIVE=false turns the archive off.",
        )


def add_published(warehouse_url: str, settings: Settings, progress: Progress = lambda _: None) -> str | None:
    """Add all published batches to the archive; returns why that was not possible, in one sentence."""
    try:
        flush(warehouse_url, Archive.of(settings), progress=progress)
    except (WarehouseError, psycopg.Error) as error:
        return str(error)
    return None


def archive_of(run: Run, settings: Settings, progress: Progress = lambda _: None) -> Archive | None:
    """The archive that a run writes to; None where it writes to none, or cannot: its rows wait in the warehouse."""
    if not run.is_archived:
        return None
    try:
        return Archive.of(settings)
    except SettingsError as error:
        progress(str(error))
        return None


def _pending_runs(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select count(distinct run_id) from audit.archive_pending where published_at is not null"
    ).fetchone()
    return int(row[0]) if row else 0
