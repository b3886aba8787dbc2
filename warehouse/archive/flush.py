"""Add published batches to the archive: one Delta commit per table, which doing it twice does not repeat."""

from collections.abc import Callable, Sequence
from itertools import groupby

import psycopg
from psycopg import sql

from warehouse.archive.column_types import StoredColumn, fields_with, select_stored, stored_columns
from warehouse.archive.delta import add_files, application, create_table, fields_of, follow_columns
from warehouse.archive.parquet_files import ParquetFile, file_stem, unreachable, write_files
from warehouse.archive.pending import PendingBatch, pending_batches, pending_paths, warehouse_id
from warehouse.archive.place import Archive, ArchiveUnreachable
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock

LOCK = "archive"
WAIT_SECONDS = 60.0
Progress = Callable[[str], None]


class ArchiveAhead(ArchiveUnreachable):
    """The archive has batches that this warehouse has never published."""


def flush(
    warehouse_url: str,
    archive: Archive,
    *,
    older_than_seconds: float = 0,
    progress: Progress = lambda _: None,
) -> int:
    """Add the published batches of tables of which one has waited for `older_than_seconds`. Returns the rows added.

    Raises:
        ArchiveUnreachable: it cannot be read or written; the batches stay where they are.
        LockHeld: another process was adding batches for a minute.
    """
    rows = 0
    with connect(warehouse_url, autocommit=True, application_name="dwh archive") as connection:
        if not pending_paths(connection, older_than_seconds):
            return 0
        with session_lock(connection, LOCK, wait_seconds=WAIT_SECONDS):
            own = warehouse_id(connection)
            for path in pending_paths(connection, older_than_seconds):
                rows += _flush_table(connection, warehouse_url, archive, own, path)
    progress(f"archive: {rows:,} rows added")
    return rows


def _flush_table(
    connection: psycopg.Connection, warehouse_url: str, archive: Archive, own: str, path: str
) -> int:
    batches = pending_batches(connection, path)
    last = batches[-1]
    with unreachable(archive):
        table = archive.open(path)
        version = table.transaction_version(application(own)) if table else None
    if version is not None:
        _refuse_ahead(connection, path, version, batches)
        # Added by a process that was killed before it could say so here.
        batches = [batch for batch in batches if batch.batch_id > version]
    if batches:
        fields = fields_of(table)
        files: dict[ParquetFile, tuple[Sequence[int], Sequence[int]]] = {}
        stored: list[StoredColumn] = []
        for columns, group in groupby(batches, lambda batch: (batch.typed, batch.files is None)):
            same = list(group)
            own_columns = stored_columns(columns[0], fields | fields_with(stored))
            stored = [
                *(one for one in stored if one.name not in {new.name for new in own_columns}),
                *own_columns,
            ]
            ids = [batch.batch_id for batch in same], [batch.run_id for batch in same]
            if columns[1]:
                for file in _write_rows(connection, warehouse_url, archive, own, path, own_columns, ids[0]):
                    files[file] = ids
            for batch in same:
                for one in batch.files or ():
                    files[ParquetFile(**one)] = [batch.batch_id], [batch.run_id]  # type: ignore[arg-type]
        with unreachable(archive):
            if table is None:
                table = create_table(archive, path, last.key, stored)
            follow_columns(table, stored)
            add_files(archive, table, path, files, application(own), last.batch_id)
    with connection.transaction():
        connection.execute(
            """
            insert into audit.archive_table (path, archived_batch_id, archived_run_id, archived_at)
            values (%s, %s, %s, clock_timestamp())
            on conflict (path) do update set archived_batch_id = excluded.archived_batch_id,
                archived_run_id = excluded.archived_run_id, archived_at = excluded.archived_at
            """,
            [path, last.batch_id, last.run_id],
        )
        connection.execute(
            "delete from audit.archive_pending where path = %s and batch_id <= %s and published_at is not null",
            [path, last.batch_id],
        )
    return sum(batch.row_count for batch in batches)


def _refuse_ahead(
    connection: psycopg.Connection, path: str, version: int, batches: Sequence[PendingBatch]
) -> None:
    """Refuse an archive that has batches which this warehouse does not know: it was restored from an older copy."""
    row = connection.execute(
        "select archived_batch_id from audit.archive_table where path = %s", [path]
    ).fetchone()
    archived = row[0] if row else None
    if version == archived or version in {batch.batch_id for batch in batches}:
        return
    raise ArchiveAhead(
        f"{path} of the archive has batches up to {version}, this warehouse has added those up to {archived or 0}: it "
        "was restored from an older copy, or another copy of it writes to the same lake.",
        hint="`dwh archive --restart` lets the archive begin anew with all that this warehouse has.",
    )


def _write_rows(
    connection: psycopg.Connection,
    warehouse_url: str,
    archive: Archive,
    own: str,
    path: str,
    columns: Sequence[StoredColumn],
    batch_ids: Sequence[int],
) -> list[ParquetFile]:
    """Write rows that are kept in the warehouse, of batches with the same columns, into files."""
    values = {
        one.column: sql.SQL("kept.row_values[{}]::{}").format(sql.Literal(number), sql.SQL(one.type))
        for number, one in enumerate(columns, start=1)
    }
    housekeeping = {
        "_operation": sql.SQL("kept.operation"),
        "_batch_id": sql.SQL("batch.batch_id"),
        "_run_id": sql.SQL("batch.run_id"),
        "_captured_at": sql.SQL("batch.captured_at"),
        "_snapshot": sql.SQL("batch.snapshot_xmin"),
        "_mirror_run_id": sql.SQL("kept.mirror_run_id"),
    }
    rows = sql.SQL(
        "audit.archive_row as kept inner join audit.archive_pending as batch using (batch_id) "
        "where batch.batch_id = any({}::bigint[])"
    ).format(sql.Literal(list(batch_ids)))
    query = select_stored(columns, values, housekeeping, rows).as_string(connection)
    constants = {"_warehouse_id": own, "_xid": None}
    stem = file_stem(own, batch_ids[-1])
    return write_files(warehouse_url, archive, path, stem, columns, constants, [query])
