"""Add published batches to the archive, exactly once: one idempotent Delta commit per table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.column_types import StoredColumn, fields_with, select_stored, stored_columns
from warehouse.archive.delta import add_files, application, create_table, fields_of, follow_columns
from warehouse.archive.parquet_files import ParquetFile, Query, file_stem, write_files
from warehouse.archive.pending import PendingBatch, is_due, pending_batches, warehouse_id
from warehouse.archive.place import IS_IT_UP, Archive, ArchiveDamaged, ArchiveUnreachable, unreachable
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import counted

LOCK = "archive"
WAIT_SECONDS = 60.0
# Number of Delta tables to write at once: a commit mostly waits for the file system.
WORKERS: Final = 4
Progress = Callable[[str], None]


class ArchiveAhead(ArchiveUnreachable):
    """The archive has batches that this warehouse has never published."""


def flush(
    warehouse_url: str,
    archive: Archive,
    *,
    wait_seconds: float = WAIT_SECONDS,
    progress: Progress = lambda _: None,
) -> int:
    """Add all published batches to the archive. Returns the number of rows added.

    Data comes first, then the audit trail, and its watermarks last: the trail never claims more than the archive has.
    If a table fails, the others of its step are still added, but not the later steps.

    Raises:
        ArchiveUnreachable: it cannot be read or written; batches that were not added stay pending.
        LockHeld: another process is adding batches, and is still after `wait_seconds`.
    """
    failures: list[Exception] = []
    rows = 0
    with connect(warehouse_url, autocommit=True, application_name="dwh archive") as connection:
        if not is_due(connection, 0):
            return 0
        with session_lock(connection, LOCK, wait_seconds=wait_seconds):
            work = _Work(warehouse_url, archive, warehouse_id(connection), _archived(connection))
            pending = sorted(pending_batches(connection), key=lambda batch: (batch.path, batch.batch_id))
            by_path = {path: list(batches) for path, batches in groupby(pending, lambda one: one.path)}
            added: list[Sequence[PendingBatch]] = []
            for _, paths in groupby(sorted(by_path, key=_step), _step):
                if not failures:
                    done, failures = _add_all(work, [by_path[path] for path in paths])
                    added += done
            _forget(connection, added)
            rows = sum(batch.row_count for batches in added for batch in batches)
    if rows:
        progress(f"archive: {counted(rows, 'row')} added")
    if failures:
        raise failures[0]
    return rows


def _step(path: str) -> int:
    """Return the order in which tables are added: data, audit trail, watermarks."""
    return 0 if not path.startswith("audit/") else 2 if path == "audit/watermark" else 1


@dataclass(frozen=True)
class _Work:
    """Shared state of one flush. `archived` is the last batch id of each table, as this warehouse has recorded it."""

    warehouse_url: str
    archive: Archive
    warehouse_id: str
    archived: Mapping[str, int]


def _add_all(
    work: _Work, tables: Iterable[Sequence[PendingBatch]]
) -> tuple[list[Sequence[PendingBatch]], list[Exception]]:
    """Add the batches of several tables in parallel. Returns the batches that were added, and the errors."""
    added, failures = [], []
    with ThreadPoolExecutor(WORKERS, "archive") as pool:
        for batches, adding in [(batches, pool.submit(_add, work, batches)) for batches in tables]:
            try:
                adding.result()
                added.append(batches)
            except Exception as error:
                failures.append(error)
    return added, failures


def _add(work: _Work, pending: Sequence[PendingBatch]) -> None:
    """Add the batches of one table, in their order, in one commit."""
    archive, path, last, name = work.archive, pending[0].path, pending[-1], application(work.warehouse_id)
    with unreachable(archive, path):
        table = archive.open(path)
        version = table.transaction_version(name) if table else None
    _refuse_another(work, version, pending)
    # Batches up to this version are in the archive already: their process was killed before it recorded that.
    batches = [batch for batch in pending if version is None or batch.batch_id > version]
    if not batches:
        return
    fields = fields_of(table)
    files: dict[ParquetFile, tuple[Sequence[int], Sequence[int]]] = {}
    stored: list[StoredColumn] = []
    for (columns, is_kept), group in groupby(batches, lambda batch: (batch.typed, batch.files is None)):
        same = list(group)
        own_columns = stored_columns(columns, fields | fields_with(stored))
        stored = [
            *(one for one in stored if one.name not in {new.name for new in own_columns}),
            *own_columns,
        ]
        ids = [batch.batch_id for batch in same], [batch.run_id for batch in same]
        if is_kept:
            for file in _write_rows(work, path, own_columns, ids[0]):
                files[file] = ids
        for batch in same:
            for one in batch.files or ():
                files[ParquetFile(**one)] = [batch.batch_id], [batch.run_id]  # type: ignore[arg-type]
    with unreachable(archive, path):
        if table is None:
            table = create_table(archive, path, last.key, stored)
        follow_columns(table, stored)
        add_files(archive, table, path, files, name, last.batch_id)


def _forget(connection: psycopg.Connection, added: Sequence[Sequence[PendingBatch]]) -> None:
    """Record each table's last archived batch and delete the added batches, in one transaction per table.

    A publishing run locks the rows of several tables in another order: one transaction for all could deadlock with it.
    """
    for batches in added:
        connection.execute(
            """
            with added as (delete from audit.archive_pending where batch_id = any(%(batch_ids)s))

            insert into audit.archive_table (path, archived_batch_id, archived_run_id, archived_at)
            values (%(path)s, %(batch_id)s, %(run_id)s, clock_timestamp())
            on conflict (path) do update set archived_batch_id = excluded.archived_batch_id,
                archived_run_id = excluded.archived_run_id, archived_at = excluded.archived_at
            """,
            {
                "batch_ids": [batch.batch_id for batch in batches],
                "path": batches[-1].path,
                "batch_id": batches[-1].batch_id,
                "run_id": batches[-1].run_id,
            },
        )


def _archived(connection: psycopg.Connection) -> dict[str, int]:
    return dict(
        connection.execute(
            "select path, archived_batch_id from audit.archive_table where archived_batch_id is not null"
        ).fetchall()
    )


def _refuse_another(work: _Work, version: int | None, batches: Sequence[PendingBatch]) -> None:
    """Check that the Delta table has exactly the batches that this warehouse has added to it.

    Raises:
        ArchiveAhead: it has more: the warehouse was restored from an older copy.
        ArchiveDamaged: it has fewer: adding later batches would hide the missing ones for ever.
    """
    path = batches[0].path
    archived = work.archived.get(path)
    if version == archived or version in {batch.batch_id for batch in batches}:
        return
    root = work.archive.root
    if archived is not None and isinstance(root, Path) and not root.is_dir():
        raise ArchiveUnreachable(
            f"The archive {root} cannot be reached: it is no folder.",
            hint=f"{IS_IT_UP} If it is gone for good, `dwh archive --restart` starts a new one.",
        )
    if archived is not None and (version is None or version < archived):
        has = "nothing of this warehouse" if version is None else f"batches up to {version} alone"
        raise ArchiveDamaged(
            work.archive.folder(path), f"has {has}, and this warehouse has added those up to {archived}"
        )
    raise ArchiveAhead(
        f"{path} of the archive has batches up to {version}, this warehouse has added those up to {archived or 0}: it "
        "was restored from an older copy, or another copy of it writes to the same lake.",
        hint="`dwh archive --restart` starts a new archive from all that this warehouse has.",
    )


def _write_rows(
    work: _Work, path: str, columns: Sequence[StoredColumn], batch_ids: Sequence[int]
) -> list[ParquetFile]:
    """Write the rows of batches that wait in the warehouse, all with the same columns, to Parquet files."""
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
    query = select_stored(columns, values, housekeeping, rows).as_string()
    constants = {"_warehouse_id": work.warehouse_id, "_xid": None}
    stem = file_stem(work.warehouse_id, batch_ids[-1])
    return write_files(work.warehouse_url, work.archive, path, stem, columns, [Query(query, constants)])
