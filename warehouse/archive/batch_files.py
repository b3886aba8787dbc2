"""Write the large batches of a run to Parquet files in the background, while the next tables are staged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.capture_plan import (
    ONE_ROW,
    Part,
    batch_of,
    becomes_mirror,
    plan_batches,
    possible_kinds,
)
from warehouse.archive.column_types import StoredColumn, select_stored, stored_columns
from warehouse.archive.delta import fields_of
from warehouse.archive.manifest import Kind
from warehouse.archive.parquet_files import ParquetFile, Query, file_stem, write_files
from warehouse.archive.pending import begin_batch, warehouse_id, with_pending_fields
from warehouse.archive.place import Archive, ArchiveUnreachable, table_path
from warehouse.db.connections import connect
from warehouse.errors import summarize_error
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable
from warehouse.runs.audit import Run
from warehouse.sources.source import Table

# Batches up to this many rows, with at most SMALL_BYTES in TOAST, wait as rows in the warehouse, not as files.
SMALL_ROWS: Final = 10_000
SMALL_BYTES: Final = 1024 * 1024

Progress = Callable[[str], None]


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
        for kind in possible_kinds(staged):
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
        if kind == "baseline" and not any(one.has_baseline for one in plan_batches(connection, [staged])):
            return None
        batch = batch_of(connection, staged, kind, snapshot)
        if all(_is_small(connection, part.rows) for part in batch.parts):
            return None
        path = table_path(table.source, table.name)
        fields = fields_of(self.archive.open(path))
        stored = stored_columns(batch.columns, with_pending_fields(connection, path, run.run_id, fields))
        taken_at, xmin = (batch.snapshot.taken_at, batch.snapshot.xmin) if batch.snapshot else (None, None)
        batch_id, captured_at = begin_batch(
            connection, path, run.run_id, table.key, batch.columns, taken_at, xmin
        )
        own = warehouse_id(connection)
        constants = {
            "_batch_id": batch_id, "_run_id": run.run_id, "_warehouse_id": own, "_captured_at": captured_at,
            "_snapshot": xmin, "_xid": None,
        }  # fmt: skip
        queries = [_select_part(connection, part, stored, constants) for part in batch.parts]
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


def _select_part(
    connection: psycopg.Connection,
    part: Part,
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


def _is_small(connection: psycopg.Connection, rows: sql.Composable) -> bool:
    if rows is ONE_ROW:
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
