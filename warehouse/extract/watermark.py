"""Watermarks: how far each source table is captured, and which rows were written since."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.db.identifiers import assigned, listed
from warehouse.extract.column import Column, without_modifier
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.source_identity import SourceIdentity
from warehouse.extract.staged import StagedTable
from warehouse.extract.table_identity import TableIdentity, stored_in
from warehouse.sources.declaration import Table

# Half of the 32-bit transaction ids: farther back, newer and older cannot be told apart by xmin.
XID_HORIZON = 2**31 - 1_000_000


@dataclass(frozen=True)
class Watermark:
    """How far a table is captured, as audit.watermark recorded it for the last published run."""

    cursor_value: str | None
    no_open_transactions: bool
    captured_at: datetime
    source: SourceIdentity
    # None where it was written before this was recorded.
    table: TableIdentity | None

    @property
    def snapshot_xmin(self) -> int:
        """Oldest transaction that was open at that snapshot."""
        return self.source.snapshot_xmin


def read_watermark(connection: psycopg.Connection, table: Table) -> Watermark | None:
    """Read the watermark of `table`; None where it was never captured."""
    row = connection.execute(
        """
        select
            cursor_value, no_open_transactions, captured_at, table_identity,
            system_identifier, timeline, database_oid, database_name,
            (wal_position - '0/0')::bigint, snapshot_xmin
        from audit.watermark where source = %s and table_name = %s
        """,
        [table.source, table.name],
    ).fetchone()
    if row is None:
        return None
    cursor_value, no_open_transactions, captured_at, table_identity, *identity = row
    return Watermark(
        cursor_value,
        no_open_transactions,
        captured_at,
        SourceIdentity(*identity),
        TableIdentity.of(table_identity),
    )


def write_watermark(
    connection: psycopg.Connection,
    run_id: int,
    staged: StagedTable,
    cursor_value: str | None,
    snapshot: Snapshot,
) -> None:
    """Record that a table is captured up to `snapshot`, in the transaction that publishes its rows."""
    table = staged.table
    values = {
        "source": table.source,
        "table_name": table.name,
        "cursor_value": cursor_value,
        "no_open_transactions": snapshot.no_open_transactions,
        "captured_at": snapshot.taken_at,
        "table_identity": Jsonb(staged.identity.stored()),
        "run_id": run_id,
        **vars(snapshot.identity),
    }
    names = [*values]
    marks = [
        sql.SQL("'0/0'::pg_lsn + {}::numeric").format(sql.Placeholder(name))
        if name == "wal_position"
        else sql.Placeholder(name)
        for name in names
    ]
    connection.execute(
        sql.SQL(
            "insert into audit.watermark ({names}) values ({marks}) "
            "on conflict (source, table_name) do update set {assignments}"
        ).format(
            names=listed(names),
            marks=sql.SQL(", ").join(marks),
            assignments=assigned(names, "excluded"),
        ),
        values,
    )


@dataclass(frozen=True)
class Window:
    """From where a table is read: its watermark, or None for all rows, and relations whose rows are all read."""

    watermark: Watermark | None
    new_relations: tuple[str, ...] = ()
    # Why more is read than newer transactions wrote.
    notes: tuple[str, ...] = ()


def find_window(
    table: Table,
    watermark: Watermark | None,
    snapshot: Snapshot,
    identity: TableIdentity,
    *,
    full_refresh: bool,
) -> Window:
    """Decide from where to read: all rows where transaction ids since the watermark do not say which have changed."""
    if watermark is None or full_refresh:
        return Window(None)
    if snapshot.xmin - watermark.snapshot_xmin >= XID_HORIZON:
        return Window(None, notes=("so many transactions ran since that all rows are read",))
    if not watermark.source.is_same_server(snapshot.identity):
        return Window(None, notes=("another server has taken over, so that all rows are read",))
    if watermark.table is None:
        return Window(watermark)
    if changed := identity.changed_columns(watermark.table):
        return Window(None, notes=(f"{', '.join(changed)} are others than they were: all rows are read",))
    new = identity.new_relations(watermark.table)
    if not identity.relations.keys() & watermark.table.relations.keys():
        return Window(
            None, notes=(f"{table} is another table than the one that was read last: all rows are read",)
        )
    names = ", ".join(identity.relations[oid] for oid in new)
    notes = (f"rows of {table} are now stored in {names}, too: these are all read",) if new else ()
    return Window(watermark, tuple(new), notes)


def is_moment(kind: str) -> bool:
    """Whether values of a type can be compared with the moment of a snapshot."""
    return without_modifier(kind) in ("timestamp with time zone", "timestamp without time zone", "date")


def without_late_cursor(
    connection: psycopg.Connection,
    watermark: Watermark | None,
    columns: Sequence[Column],
    table: Table,
    snapshot: Snapshot,
) -> Watermark | None:
    """`watermark`, without a cursor value that is later than the snapshot: behind infinity nothing would be read."""
    kinds = [column.type for column in columns if column.name == table.cursor]
    if watermark is None or watermark.cursor_value is None or not kinds or not is_moment(kinds[0]):
        return watermark
    is_late = connection.execute(
        sql.SQL("select {}::{} > {}").format(
            sql.Literal(watermark.cursor_value), sql.SQL(kinds[0]), sql.Literal(snapshot.taken_at)
        )
    ).fetchone()
    return replace(watermark, cursor_value=None) if is_late == (True,) else watermark


def changed_since(
    table: Table,
    columns: Sequence[Column],
    watermark: Watermark | None,
    *,
    by_cursor: bool = False,
    new_relations: Sequence[str] = (),
) -> sql.Composable:
    """Condition on a source row: it may have changed since the watermark, by its xmin or by its cursor alone.

    Rows of `new_relations` always may.
    """
    if watermark is None:
        return sql.SQL("true")
    condition = written_since(watermark)
    if by_cursor and table.cursor is not None and watermark.cursor_value is not None:
        (cursor_type,) = (column.type for column in columns if column.name == table.cursor)
        # Equal timestamps are read again: a transaction may have stamped its rows just before the snapshot.
        condition = sql.SQL("{} >= {}::{}").format(
            sql.Identifier(table.cursor), sql.Literal(watermark.cursor_value), sql.SQL(cursor_type)
        )
    if new_relations:
        return sql.SQL("({} or {})").format(condition, stored_in(new_relations))
    return condition


def written_since(watermark: Watermark) -> sql.Composable:
    """Condition of the xmin scan on a source row: it may have been written after the last published snapshot."""
    return sql.SQL("age(xmin) <= (select age({}::xid))").format(
        sql.Literal(str(watermark.snapshot_xmin % 2**32))
    )
