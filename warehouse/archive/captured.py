"""Archive captured batches: large ones as Parquet files while the run stages, small ones as rows when it publishes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.archive.changed_rows import is_overdue
from warehouse.archive.column_types import StoredColumn, select_stored, stored_columns
from warehouse.archive.delta import fields_of
from warehouse.archive.manifest import Entry, Kind, write_manifest
from warehouse.archive.parquet_files import ParquetFile, Query, file_stem, write_files
from warehouse.archive.pending import (
    MIRROR_OPERATION,
    MIRROR_RUN,
    Columns,
    begin_batch,
    keep_rows,
    publish_files,
    publish_rows,
    warehouse_id,
    with_pending_fields,
)
from warehouse.archive.place import Archive, ArchiveUnreachable, table_path
from warehouse.db.connections import connect
from warehouse.errors import summarize_error
from warehouse.extract.catalog import mirrored_columns
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.runs.audit import Run
from warehouse.sources.source import Table

# Batches up to this many rows, with at most SMALL_BYTES in TOAST, wait as rows in the warehouse, not as files.
SMALL_ROWS: Final = 10_000
SMALL_BYTES: Final = 1024 * 1024

Progress = Callable[[str], None]
_ONE_ROW: Final = sql.SQL("(values (1)) as one")


@dataclass(frozen=True)
class _Part:
    """Rows of a batch: their operation, the columns that have values, and the table or query to read them from."""

    # A text is the operation of all rows; SQL is evaluated for each row.
    operation: str | sql.Composable
    columns: Sequence[str]
    rows: sql.Composable
    mirror_run_id: sql.Composable | None = None


@dataclass(frozen=True)
class WrittenBatch:
    """A batch whose Parquet files are written. Readers see them only after the batch is committed to Delta."""

    batch_id: int
    files: Sequence[ParquetFile]


Written = Mapping[tuple[Table, Kind], WrittenBatch]


class BatchFiles:
    """Parquet files of a run's large batches, written by a background thread while the next tables are staged."""

    def __init__(
        self, run: Run, open_archive: Callable[[], Archive], progress: Progress, *, is_near: bool
    ) -> None:
        self.run, self._open_archive, self.progress, self.is_near = run, open_archive, progress, is_near
        self._pool = ThreadPoolExecutor(1, "archive")
        self._pending: dict[tuple[Table, Kind], Future[WrittenBatch | None]] = {}
        self._is_away = False
        self._session: psycopg.Connection | None = None

    @cached_property
    def archive(self) -> Archive:
        """The archive, opened at the first large batch: importing an object store's client is slow."""
        return self._open_archive()

    def add(self, staged: StagedTable, snapshot: Snapshot) -> None:
        """Start writing the files of a staged, committed batch if it is large. Repeated calls have no effect."""
        for kind in _possible_kinds(staged):
            self._submit(staged, kind, snapshot)

    def begin_publish(self, staged: Staged) -> Callable[[], Written]:
        """Return a function that waits for all files and returns them; the caller calls it with the star locked.

        If a staging table is to become the mirror (its rows must be read before the merge), or the archive is on an
        object store (writes may be slow), wait here instead, before the star is locked.
        """
        if self.is_near and not any(map(becomes_mirror, staged.tables)):
            return self.finish
        return partial(dict, self.finish())

    def finish(self) -> Written:
        """Wait for all files. Small and failed batches are not in the result: their rows wait in the warehouse."""
        written = {}
        for (table, kind), pending in self._pending.items():
            try:
                if batch := pending.result():
                    written[table, kind] = batch
            except Exception as error:
                # No archive error fails the run: the rows are still in staging and are kept in the warehouse.
                self.progress(
                    f"{table.name}: its rows wait in the warehouse for the archive. {summarize_error(error)}"
                )
        return written

    def close(self) -> None:
        """Wait for the file that is being written, and cancel the others."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._session is not None:
            self._session.close()

    def _submit(self, staged: StagedTable, kind: Kind, snapshot: Snapshot) -> None:
        if (staged.table, kind) in self._pending:
            return
        self._pending[staged.table, kind] = self._pool.submit(self._write, staged, kind, snapshot)

    def _write(self, staged: StagedTable, kind: Kind, snapshot: Snapshot) -> WrittenBatch | None:
        if self._is_away:
            return None
        try:
            return self._write_batch(staged, kind, snapshot)
        except ArchiveUnreachable:
            # Do not try again in this run: every attempt may wait for a timeout.
            self._is_away = True
            raise

    def _write_batch(self, staged: StagedTable, kind: Kind, snapshot: Snapshot) -> WrittenBatch | None:
        table, run, connection = staged.table, self.run, self._connect()
        if kind == "baseline":
            if not any(one.has_baseline for one in _plan(connection, [staged])):
                return None
            columns: Columns = tuple(mirrored_columns(connection, table).items())
            parts = _mirror_parts(table, columns)
        else:
            columns, parts = columns_of(staged), _batch_parts(staged)
        if all(_is_small(connection, part.rows) for part in parts):
            return None
        path = table_path(table.source, table.name)
        fields = fields_of(self.archive.open(path))
        stored = stored_columns(columns, with_pending_fields(connection, path, run.run_id, fields))
        is_captured = kind != "baseline"
        batch_id, captured_at = begin_batch(
            connection, path, run.run_id, table.key, columns,
            snapshot.taken_at if is_captured else None, snapshot.xmin if is_captured else None,
        )  # fmt: skip
        own = warehouse_id(connection)
        constants = {
            "_batch_id": batch_id, "_run_id": run.run_id, "_warehouse_id": own, "_captured_at": captured_at,
            "_snapshot": snapshot.xmin if is_captured else None, "_xid": None,
        }  # fmt: skip
        queries = [_select_part(connection, part, stored, constants) for part in parts]
        stem = file_stem(own, batch_id)
        return WrittenBatch(
            batch_id, write_files(run.warehouse_url, self.archive, path, stem, stored, queries)
        )

    def _connect(self) -> psycopg.Connection:
        """Return the background thread's database session, shared by all tables."""
        if self._session is None or self._session.closed:
            self._session = connect(self.run.warehouse_url, autocommit=True, application_name="dwh archive")
        return self._session


@contextmanager
def batch_files(
    run: Run, open_archive: Callable[[], Archive], progress: Progress, *, is_near: bool = True
) -> Iterator[BatchFiles | None]:
    """Write the large batches of `run` to files in the background; yields None if the run is not archived. The archive
    `is_near` if it is a local folder."""
    if not run.is_archived:
        yield None
        return
    files = BatchFiles(run, open_archive, progress, is_near=is_near)
    try:
        yield files
    finally:
        files.close()


def publish_batches(connection: psycopg.Connection, run_id: int, staged: Staged, written: Written) -> bool:
    """Publish the batches of a staged source for the archive. Call it before the merge unless they `outlive_merge`.

    Returns whether to archive the audit trail, too: live capture does so only every OVERDUE_SECONDS. Live skips mirrors
    that need a baseline; the next scheduled run archives all their rows.
    """
    plans = _plan(connection, staged.tables)
    if staged.batch is not None:
        plans = [one for one in plans if not one.has_baseline]
        if not plans:
            return False
    entries = []
    for plan in plans:
        one = plan.staged
        if plan.has_baseline and (one.table, "baseline") not in written:
            # The baseline truncates all lower batch ids, so the files already written for this batch are void.
            written = {key: batch for key, batch in written.items() if key[0] != one.table}
        entries += [_publish(connection, run_id, one, kind, staged.snapshot, written) for kind in plan.kinds]
        if plan.has_new_columns and not plan.has_batch:
            entries.append(_entry(one, kind_of(one), columns_of(one), None, 0, staged.snapshot))
    if staged.batch is not None and not is_overdue(connection):
        # Live batches get manifest rows only every OVERDUE_SECONDS, unless the columns changed.
        changed = {plan.staged.table for plan in plans if plan.has_new_columns}
        entries = [one for one in entries if one.table in changed]
    write_manifest(connection, run_id, entries)
    _remember(connection, run_id, [plan.staged for plan in plans], is_changed=bool(entries))
    return bool(entries)


def becomes_mirror(staged: StagedTable) -> bool:
    """Whether the staging table itself may become the mirror: on the first load and on a full refresh."""
    return kind_of(staged) != "incremental"


def outlive_merge(connection: psycopg.Connection, staged: Staged) -> bool:
    """Whether the staging tables still exist after the merge and no mirror needs a baseline from before the merge."""
    return not any(map(becomes_mirror, staged.tables)) and not any(
        plan.has_baseline for plan in _plan(connection, staged.tables)
    )


@dataclass(frozen=True)
class _Plan:
    """What of a table that was read is archived."""

    staged: StagedTable
    # In this order; none if the batch has no rows and the archive has all rows from before it.
    kinds: Sequence[Kind]
    # Whether the last archived batch had other columns, or there is none.
    has_new_columns: bool

    @property
    def has_baseline(self) -> bool:
        """Whether the archive missed earlier loads of the mirror: then all its rows are archived first."""
        return "baseline" in self.kinds

    @property
    def has_batch(self) -> bool:
        """Whether the batch itself has rows."""
        return kind_of(self.staged) in self.kinds


def _is_read(staged: StagedTable) -> bool:
    """Whether the watermark moves. A table that was skipped, or whose cursor query found no rows, keeps it."""
    return staged.reading != "skipped" and (staged.reading != "cursor" or staged.rows_read > 0)


def _possible_kinds(staged: StagedTable) -> Iterator[Kind]:
    """Yield what may have to be archived of a staged table, whatever the archive has of it already."""
    if not _is_read(staged):
        return
    if staged.before is not None:
        yield "baseline"
    if staged.rows_read or staged.rows_deleted or _begins_again(staged):
        yield kind_of(staged)


def _plan(connection: psycopg.Connection, tables: Sequence[StagedTable]) -> list[_Plan]:
    """Decide what is archived of each table that was read, by what the archive has now."""
    read = {table_path(one.table.source, one.table.name): one for one in tables if _is_read(one)}
    rows = connection.execute(
        "select path, captured_run_id, columns from audit.archive_table where path = any(%s)", [list(read)]
    ).fetchall()
    archived = {
        path: (run_id, [(name, kind) for name, kind in columns or ()]) for path, run_id, columns in rows
    }
    plans = []
    for path, one in read.items():
        run_id, columns = archived.get(path, (None, None))
        has_all = one.before is not None and one.before.run_id == run_id
        kinds = [kind for kind in _possible_kinds(one) if kind != "baseline" or not has_all]
        plans.append(_Plan(one, kinds, columns != list(columns_of(one))))
    return plans


def _publish(
    connection: psycopg.Connection,
    run_id: int,
    staged: StagedTable,
    kind: Kind,
    snapshot: Snapshot,
    written: Written,
) -> Entry:
    table = staged.table
    is_baseline = kind == "baseline"
    columns = tuple(mirrored_columns(connection, table).items()) if is_baseline else columns_of(staged)
    if batch := written.get((table, kind)):
        publish_files(connection, batch.batch_id, batch.files)
        batch_id, rows = batch.batch_id, sum(file.rows for file in batch.files)
    else:
        batch_id, _ = begin_batch(
            connection, table_path(table.source, table.name), run_id, table.key, columns,
            None if is_baseline else snapshot.taken_at, None if is_baseline else snapshot.xmin,
        )  # fmt: skip
        for part in _mirror_parts(table, columns) if is_baseline else _batch_parts(staged):
            keep_part(connection, batch_id, columns, part)
        rows = publish_rows(connection, batch_id)
    return _entry(staged, kind, columns, batch_id, rows, None if is_baseline else snapshot)


def _entry(
    staged: StagedTable,
    kind: Kind,
    columns: Columns,
    batch_id: int | None,
    rows: int,
    snapshot: Snapshot | None,
) -> Entry:
    comments = {column.name: column.comment for column in staged.columns if column.comment}
    return Entry(staged.table, kind, columns, staged.comment, batch_id, rows, snapshot, comments)


def keep_part(connection: psycopg.Connection, batch_id: int, columns: Columns, part: _Part) -> int:
    """Keep rows of a batch in the warehouse; returns their number."""
    values = [sql.Identifier(name) if name in part.columns else None for name, _ in columns]
    operation = sql.Literal(part.operation) if isinstance(part.operation, str) else part.operation
    return keep_rows(connection, batch_id, operation, values, part.rows, part.mirror_run_id or sql.NULL)


def _select_part(
    connection: psycopg.Connection,
    part: _Part,
    stored: Sequence[StoredColumn],
    constants: Mapping[str, object],
) -> Query:
    """Return the query of a part's rows. Values that all rows share are constants, which saves decoding a column."""
    of_rows = {"_operation": part.operation, "_mirror_run_id": part.mirror_run_id}
    query = select_stored(
        stored,
        {name: sql.Identifier(name) for name in part.columns},
        {name: value for name, value in of_rows.items() if isinstance(value, sql.Composable)},
        part.rows,
    )
    shared = {name: value for name, value in of_rows.items() if not isinstance(value, sql.Composable)}
    return Query(query.as_string(connection), {**constants, **shared})


def kind_of(staged: StagedTable) -> Kind:
    """Return how the table was read: first load, full refresh or incremental."""
    if staged.before is None:
        return "first"
    return "full" if staged.full_refresh else "incremental"


def columns_of(staged: StagedTable) -> Columns:
    """Return the names and types of a batch's columns."""
    return tuple((column.name, column.type) for column in staged.columns)


def _begins_again(staged: StagedTable) -> bool:
    """Whether the mirror was dropped since the last load. Then the archived rows are truncated: no batch deletes the
    rows that the dropped mirror had, and they may have been archived under another key."""
    return staged.before is not None and not staged.has_mirror


def _batch_parts(staged: StagedTable) -> list[_Part]:
    table = staged.table
    parts = [_Part("write", [column.name for column in staged.columns], batch_table(table))]
    if _begins_again(staged):
        parts.insert(0, _Part("truncate", (), _ONE_ROW))
    if staged.rows_deleted:
        parts.append(_Part("delete", table.key, deleted_table(table)))
    return parts


def _mirror_parts(table: Table, columns: Columns) -> list[_Part]:
    """Return all rows of a mirror, after a 'truncate' row that invalidates everything archived before."""
    return [
        _Part("truncate", (), _ONE_ROW),
        _Part(
            MIRROR_OPERATION, [name for name, _ in columns], sql.Identifier("raw", table.mirror), MIRROR_RUN
        ),
    ]


def _is_small(connection: psycopg.Connection, rows: sql.Composable) -> bool:
    if rows is _ONE_ROW:
        return True
    row = connection.execute(
        sql.SQL(
            "select pg_table_size({name}) - pg_relation_size({name}) <= {bytes} "
            "and not exists (select from {rows} offset {most})"
        ).format(
            name=sql.Literal(rows.as_string(connection)),
            rows=rows,
            bytes=sql.Literal(SMALL_BYTES),
            most=sql.Literal(SMALL_ROWS),
        )
    ).fetchone()
    return row == (True,)


def _remember(
    connection: psycopg.Connection, run_id: int, tables: Sequence[StagedTable], *, is_changed: bool
) -> None:
    paths = [table_path(one.table.source, one.table.name) for one in tables]
    if not is_changed:
        connection.execute(
            "update audit.archive_table set captured_run_id = %s where path = any(%s)", [run_id, paths]
        )
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.archive_table (path, columns, captured_run_id) values (%s, %s, %s)
            on conflict (path) do update
            set columns = excluded.columns, captured_run_id = excluded.captured_run_id
            """,
            [
                (path, Jsonb([list(column) for column in columns_of(one)]), run_id)
                for path, one in zip(paths, tables, strict=True)
            ],
        )
