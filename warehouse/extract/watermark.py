"""Watermarks: how far each source table is captured, and which rows were written since."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.errors import SourceError
from warehouse.extract.catalog import Column
from warehouse.extract.snapshot import Snapshot
from warehouse.sources.declaration import Table

# Half of the 32-bit transaction ids: farther back, newer and older cannot be told apart by xmin.
XID_HORIZON = 2**31 - 1_000_000


@dataclass(frozen=True)
class Watermark:
    """How far a table is captured, as audit.watermark recorded it for the last published run."""

    cursor_value: str | None
    snapshot_xmin: int
    no_open_transactions: bool
    system_identifier: str | None
    timeline: int | None
    captured_at: datetime


def read_watermark(connection: psycopg.Connection, table: Table) -> Watermark | None:
    """Read the watermark of `table`; None where it was never captured."""
    row = connection.execute(
        """
        select cursor_value, snapshot_xmin, no_open_transactions, system_identifier, timeline, captured_at
        from audit.watermark where source = %s and table_name = %s
        """,
        [table.source, table.name],
    ).fetchone()
    return Watermark(*row) if row else None


def write_watermark(
    connection: psycopg.Connection, run_id: int, table: Table, cursor_value: str | None, snapshot: Snapshot
) -> None:
    """Record that `table` is captured up to `snapshot`, in the transaction that publishes its rows."""
    connection.execute(
        """
        insert into audit.watermark
            (source, table_name, cursor_value, snapshot_xmin, no_open_transactions, system_identifier, timeline,
                captured_at, run_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (source, table_name) do update set
            cursor_value = excluded.cursor_value, snapshot_xmin = excluded.snapshot_xmin,
            no_open_transactions = excluded.no_open_transactions, system_identifier = excluded.system_identifier,
            timeline = excluded.timeline, captured_at = excluded.captured_at, run_id = excluded.run_id
        """,
        [
            table.source,
            table.name,
            cursor_value,
            snapshot.xmin,
            snapshot.no_open_transactions,
            snapshot.system_identifier,
            snapshot.timeline,
            snapshot.taken_at,
            run_id,
        ],
    )


def check_same_server(watermark: Watermark, snapshot: Snapshot, table: Table) -> None:
    """Refuse another server than the one that was read last: its transaction ids mean nothing.

    Raises:
        SourceError: system identifier or timeline differ, or the transaction ids run from an earlier one.
    """
    hint = f"If that is intended, read everything again: `dwh run {table.source} --full-refresh`."
    for what, before, now in (
        ("system identifier", watermark.system_identifier, snapshot.system_identifier),
        ("timeline", watermark.timeline, snapshot.timeline),
    ):
        if before is not None and now is not None and before != now:
            raise SourceError(
                f"Source '{table.source}' is not the server that was read last: its {what} is {now} and was {before} "
                "(a failover, a restore, or another database).",
                hint=hint,
            )
    if snapshot.xmin < watermark.snapshot_xmin:
        raise SourceError(
            f"Source '{table.source}' is not the server that was read last: its transactions are counted from "
            f"{snapshot.xmin:,} and were from {watermark.snapshot_xmin:,} "
            "(a restore from a copy, or another database).",
            hint=hint,
        )


def has_wrapped_around(watermark: Watermark, snapshot: Snapshot) -> bool:
    """Whether so many transactions ran since the watermark that xmin can no longer be compared with it."""
    return snapshot.xmin - watermark.snapshot_xmin >= XID_HORIZON


def changed_since(
    table: Table, columns: Sequence[Column], watermark: Watermark | None, *, by_cursor: bool = False
) -> sql.Composable:
    """Condition on a source row: it may have changed since the watermark, by its xmin or by its cursor alone."""
    if watermark is None:
        return sql.SQL("true")
    if by_cursor and table.cursor is not None and watermark.cursor_value is not None:
        (cursor_type,) = (column.type for column in columns if column.name == table.cursor)
        # Equal timestamps are read again: a transaction may have stamped its rows just before the snapshot.
        return sql.SQL("{} >= {}::{}").format(
            sql.Identifier(table.cursor), sql.Literal(watermark.cursor_value), sql.SQL(cursor_type)
        )
    return written_since(watermark)


def written_since(watermark: Watermark) -> sql.Composable:
    """Condition of the xmin scan on a source row: it may have been written after the last published snapshot."""
    return sql.SQL("age(xmin) <= (select age({}::xid))").format(
        sql.Literal(str(watermark.snapshot_xmin % 2**32))
    )
