"""Batches that are published but not yet in the archive: the warehouse keeps their file names or their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from warehouse.archive.column_types import Fields, fields_with, stored_columns
from warehouse.archive.parquet_files import ParquetFile

Columns = Sequence[tuple[str, str]]
# If more rows of a table are pending, they are added right after the run, without waiting for DWH_ARCHIVE_DELAY.
MANY_ROWS: Final = 10_000
# SQL for mirror rows: the operation that restores a row's state, and the run that wrote it.
MIRROR_OPERATION: Final = sql.SQL("case when _is_deleted then 'write_deleted' else 'write' end")
MIRROR_RUN: Final = sql.Identifier("_run_id")


@dataclass(frozen=True)
class PendingBatch:
    """A published batch. `columns` are pairs of name and PostgreSQL type; `files` is None if its rows are kept."""

    batch_id: int
    path: str
    run_id: int
    key: Sequence[str]
    columns: Sequence[Sequence[str]]
    row_count: int
    files: Sequence[dict[str, object]] | None

    @property
    def typed(self) -> list[tuple[str, str]]:
        """The columns as tuples of name and PostgreSQL type."""
        return [(name, kind) for name, kind in self.columns]


def begin_batch(
    connection: psycopg.Connection,
    path: str,
    run_id: int,
    key: Sequence[str],
    columns: Columns,
    captured_at: datetime | None = None,
    snapshot_xmin: int | None = None,
) -> tuple[int, datetime]:
    """Register a batch under a new number. It has no effect until it is published.

    Returns its id and capture time.
    """
    row = connection.execute(
        """
        insert into audit.archive_pending (path, run_id, key, columns, captured_at, snapshot_xmin)
        values (%s, %s, %s, %s, coalesce(%s, clock_timestamp()), %s)
        returning batch_id, captured_at
        """,
        [path, run_id, list(key), Jsonb([list(one) for one in columns]), captured_at, snapshot_xmin],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def publish_files(connection: psycopg.Connection, batch_id: int, files: Sequence[ParquetFile]) -> None:
    """Publish a batch whose rows are in files, in the transaction that publishes the run's data."""
    connection.execute(
        """
        update audit.archive_pending
        set files = %s, row_count = %s, published_at = clock_timestamp() where batch_id = %s
        """,
        [Jsonb([vars(one) for one in files]), sum(one.rows for one in files), batch_id],
    )


def publish_rows(connection: psycopg.Connection, batch_id: int) -> int:
    """Publish a batch whose rows are in audit.archive_row, or drop it if empty. Returns the number of rows."""
    row = connection.execute(
        "select count(*) from audit.archive_row where batch_id = %s", [batch_id]
    ).fetchone()
    count = int(row[0]) if row else 0
    if count:
        connection.execute(
            "update audit.archive_pending set row_count = %s, published_at = clock_timestamp() where batch_id = %s",
            [count, batch_id],
        )
    else:
        connection.execute("delete from audit.archive_pending where batch_id = %s", [batch_id])
    return count


_KEEP: Final = sql.SQL(
    "insert into audit.archive_row (batch_id, operation, mirror_run_id, row_values) "
    "select {batch_id}, {operation}, {mirror_run_id}, array[{values}]::text[] from {rows}"
)


def keep_rows(
    connection: psycopg.Connection,
    batch_id: int,
    operation: sql.Composable,
    values: Sequence[sql.Composable | None],
    rows: sql.Composable,
    mirror_run_id: sql.Composable = sql.NULL,
) -> int:
    """Store rows of a batch in audit.archive_row. `values` are expressions over `rows`, one per column of the batch.

    None stands for a column without a value. Returns the number of rows.
    """
    return connection.execute(
        _KEEP.format(
            batch_id=sql.Literal(batch_id),
            operation=operation,
            mirror_run_id=mirror_run_id,
            values=sql.SQL(", ").join(
                sql.NULL if value is None else sql.SQL("{}::text").format(value) for value in values
            ),
            rows=rows,
        )
    ).rowcount


def pending_batches(connection: psycopg.Connection) -> list[PendingBatch]:
    """Return the published batches in the order of their ids."""
    with connection.cursor(row_factory=class_row(PendingBatch)) as cursor:
        return cursor.execute(
            """
            select batch_id, path, run_id, key, columns, row_count, files from audit.archive_pending
            where published_at is not null order by batch_id
            """
        ).fetchall()


def with_pending_fields(
    connection: psycopg.Connection, path: str, run_id: int, fields: Fields
) -> dict[str, dict[str, Any]]:
    """Return the fields that a Delta table will have once its pending batches and those of this run are added."""
    rows = connection.execute(
        "select columns from audit.archive_pending where path = %s and (published_at is not null or run_id = %s) "
        "order by batch_id",
        [path, run_id],
    ).fetchall()
    more = dict(fields)
    for (columns,) in rows:
        more |= fields_with(stored_columns([(name, kind) for name, kind in columns], more))
    return more


def is_due(connection: psycopg.Connection, after_seconds: float) -> bool:
    """Whether to add pending batches now: one is older than this, or has files, or a table has over MANY_ROWS rows."""
    return bool(
        connection.execute(
            """
            select from audit.archive_pending where published_at is not null group by path
            having min(published_at) <= clock_timestamp() - make_interval(secs => %s)
                or bool_or(files is not null) or sum(row_count) > %s
            limit 1
            """,
            [after_seconds, MANY_ROWS],
        ).rowcount
    )


def warehouse_id(connection: psycopg.Connection) -> str:
    """Return the id under which this warehouse writes to the archive."""
    row = connection.execute("select warehouse_id::text from audit.archive").fetchone()
    assert row is not None
    return str(row[0])
