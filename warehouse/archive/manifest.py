"""The manifest: an archived table with one row per batch of a captured table: its columns, key and snapshot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import psycopg
from psycopg import sql

from warehouse.archive.pending import Columns, begin_batch, keep_rows, publish_rows
from warehouse.extract.snapshot import Snapshot
from warehouse.sources.source import Table

PATH: Final = "audit/captured_table"
KEY: Final = ("source", "table_name", "run_id", "kind")
COLUMNS: Final = (
    ("source", "text"), ("table_name", "text"), ("mirror", "text"), ("run_id", "bigint"), ("kind", "text"),
    ("batch_id", "bigint"), ("key", "text[]"), ("columns", "jsonb"), ("table_comment", "text"),
    ("row_count", "bigint"), ("captured_at", "timestamp with time zone"), ("snapshot_xmin", "bigint"),
)  # fmt: skip

# first, full: all rows of the table were read; incremental: rows that may have changed; baseline: all rows of the
# mirror before this batch; undo, repair: mirror rows that an undo or a reconcile has changed.
Kind = Literal["first", "full", "incremental", "baseline", "undo", "repair"]


@dataclass(frozen=True)
class Entry:
    """A manifest row: a batch of a captured table. `batch_id` is None if the batch has no rows."""

    table: Table
    kind: Kind
    columns: Columns
    comment: str | None
    batch_id: int | None
    rows: int
    snapshot: Snapshot | None
    # The source's column comments, by column.
    column_comments: Mapping[str, str] = field(default_factory=dict)


def write_manifest(connection: psycopg.Connection, run_id: int, entries: Sequence[Entry]) -> None:
    """Publish manifest rows in the transaction that publishes their batches."""
    if not entries:
        return
    manifest_id, _ = begin_batch(connection, PATH, run_id, KEY, COLUMNS)
    for entry in entries:
        values = (
            entry.table.source, entry.table.name, entry.table.mirror, run_id, entry.kind, entry.batch_id,
            list(entry.table.key), json.dumps(_columns(entry)), entry.comment, entry.rows,
            entry.snapshot.taken_at if entry.snapshot else None, entry.snapshot.xmin if entry.snapshot else None,
        )  # fmt: skip
        keep_rows(
            connection,
            manifest_id,
            sql.Literal("write"),
            [
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))
                for value, (_, kind) in zip(values, COLUMNS, strict=True)
            ],
            sql.SQL("(values (1)) as one"),
        )
    publish_rows(connection, manifest_id)


def _columns(entry: Entry) -> list[list[str]]:
    """Return name, type and, if there is one, comment of each column."""
    comments = entry.column_comments
    return [
        [*column, comments[column[0]]] if column[0] in comments else [*column] for column in entry.columns
    ]
