"""Watermarks: how far each source table is captured, and which rows were written since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.db.identifiers import assigned, listed
from warehouse.extract.open_transactions import OpenTransactions
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.source_identity import SourceIdentity
from warehouse.extract.table_identity import TableIdentity, stored_in
from warehouse.sources.source import Table

# Half of the 32-bit transaction ids: farther back, newer and older cannot be told apart by xmin.
XID_HORIZON = 2**31 - 1_000_000


@dataclass(frozen=True)
class Rotation:
    """How far the verification of a table's key ranges has come since it began with the first of them."""

    started_at: datetime
    rows_verified: int = 0
    rows_deleted: int = 0


@dataclass(frozen=True)
class Watermark:
    """How far a table is captured, as audit.watermark recorded it for the last published run.

    Two positions: that of the last read, from which the next read by the cursor goes on, and that of the last complete
    one, from which a scan does.
    """

    run_id: int
    # Of the last read, by the cursor's index or complete.
    cursor_value: str | None
    captured_at: datetime
    source: SourceIdentity
    # Before that snapshot; None, as all that follow, where it was written before this was recorded.
    open_transactions: OpenTransactions | None
    table: TableIdentity | None
    # Of the last snapshot up to which every row is known to be captured.
    complete_at: datetime
    complete_xmin: int
    # Rows of the mirror that are not deleted.
    row_count: int | None = None
    rotation: Rotation | None = None
    # Changes of the table by the source's own counters; and those since the rotation began that no batch explains.
    changes_counted: int | None = None
    changes_unexplained: int = 0

    @property
    def snapshot_xmin(self) -> int:
        """Oldest transaction that was open at the last read."""
        return self.source.snapshot_xmin


def read_watermark(connection: psycopg.Connection, table: Table) -> Watermark | None:
    """Read the watermark of `table`; None where it was never captured."""
    return read_watermarks(connection, table.source, [table]).get(table)


def read_watermarks(
    connection: psycopg.Connection, source: str, tables: Sequence[Table]
) -> dict[Table, Watermark]:
    """Read the watermarks of those `tables` of a source that were ever captured."""
    by_name = {table.name: table for table in tables}
    rows = connection.execute(
        """
        select
            table_name,
            run_id, cursor_value, captured_at, open_transactions, table_identity, complete_at, complete_xmin,
            row_count, rotation_started_at, rotation_rows_verified, rotation_rows_deleted,
            changes_counted, changes_unexplained,
            system_identifier, timeline, database_oid, database_name,
            (wal_position - '0/0')::bigint, snapshot_xmin
        from audit.watermark where source = %s and table_name = any(%s)
        """,
        [source, list(by_name)],
    ).fetchall()
    return {by_name[name]: _watermark(*values) for name, *values in rows}


def _watermark(
    run_id: int,
    cursor_value: str | None,
    captured_at: datetime,
    open_transactions: Mapping[str, Any] | None,
    table_identity: Mapping[str, Any] | None,
    complete_at: datetime,
    complete_xmin: int,
    row_count: int | None,
    started_at: datetime | None,
    rows_verified: int,
    rows_deleted: int,
    counted: int | None,
    unexplained: int,
    *identity: Any,
) -> Watermark:
    return Watermark(
        run_id,
        cursor_value,
        captured_at,
        SourceIdentity(*identity),
        OpenTransactions.of(open_transactions),
        TableIdentity.of(table_identity),
        complete_at,
        # Before this was recorded every read was complete; the undo of one of them takes only the others back.
        min(complete_xmin, identity[-1]),
        row_count,
        Rotation(started_at, rows_verified, rows_deleted) if started_at else None,
        counted,
        unexplained,
    )


def write_watermarks(connection: psycopg.Connection, watermarks: Mapping[Table, Watermark]) -> None:
    """Record how far tables are captured, in the transaction that publishes their rows."""
    rows = [_stored(table, watermark) for table, watermark in watermarks.items()]
    if not rows:
        return
    names = [*rows[0]]
    marks = [
        sql.SQL("'0/0'::pg_lsn + {}::numeric").format(sql.Placeholder(name))
        if name == "wal_position"
        else sql.Placeholder(name)
        for name in names
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            sql.SQL(
                "insert into audit.watermark ({names}) values ({marks}) "
                "on conflict (source, table_name) do update set {assignments}"
            ).format(
                names=listed(names),
                marks=sql.SQL(", ").join(marks),
                assignments=assigned(names, "excluded"),
            ),
            rows,
        )


def _stored(table: Table, watermark: Watermark) -> dict[str, Any]:
    rotation = watermark.rotation
    return {
        "source": table.source,
        "table_name": table.name,
        "mirror": table.mirror,
        "run_id": watermark.run_id,
        "cursor_value": watermark.cursor_value,
        "captured_at": watermark.captured_at,
        "open_transactions": Jsonb(watermark.open_transactions.stored())
        if watermark.open_transactions
        else None,
        "table_identity": Jsonb(watermark.table.stored()) if watermark.table else None,
        "complete_at": watermark.complete_at,
        "complete_xmin": watermark.complete_xmin,
        "row_count": watermark.row_count,
        "rotation_started_at": rotation.started_at if rotation else None,
        "rotation_rows_verified": rotation.rows_verified if rotation else 0,
        "rotation_rows_deleted": rotation.rows_deleted if rotation else 0,
        "changes_counted": watermark.changes_counted,
        "changes_unexplained": watermark.changes_unexplained,
        **vars(watermark.source),
    }


@dataclass(frozen=True)
class Window:
    """From where a table is read: its watermark, or None for all rows, and relations whose rows are all read."""

    watermark: Watermark | None
    new_relations: tuple[str, ...] = ()
    # Why more is read than newer transactions wrote.
    notes: tuple[str, ...] = ()
    # Whether the relations store other rows than at the last read, so that no part of them says what the whole is.
    is_rewritten: bool = False


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
    return Window(watermark, tuple(new), notes, is_rewritten=identity.is_rewritten(watermark.table))


def unexplained_changes(watermark: Watermark, changes: int, explained: int) -> int:
    """Changes that the source has counted since the rotation began and no batch explains, with one that `explained`
    so many; a counter that went back was reset."""
    if watermark.changes_counted is None:
        return 0
    return watermark.changes_unexplained + max(changes - watermark.changes_counted - explained, 0)


def changed_since(
    watermark: Watermark | None, snapshot_xmin: int, *, new_relations: Sequence[str] = ()
) -> sql.Composable:
    """Condition of a scan on a source row: it may have changed since the last complete read.

    Rows of `new_relations` always may. Where that read is too long ago for transaction ids to show them, checksums do.
    """
    if watermark is None:
        return sql.SQL("true")
    condition: sql.Composable = sql.SQL("false")
    if snapshot_xmin - watermark.complete_xmin < XID_HORIZON:
        condition = written_since(watermark.complete_xmin)
    if new_relations:
        return sql.SQL("({} or {})").format(condition, stored_in(new_relations))
    return condition


def written_after(snapshot: str) -> sql.Composable:
    """Condition on a source row: it may have been written by a transaction that ended after `snapshot`, as text.

    What was open then and still is shows nothing, however old it is: so the rows that were read since it began are not
    read again and again. Of what has ended, parts (savepoints) have later ids than the whole.
    """
    return sql.SQL(
        """
        age(xmin) <= (
            select age((least(
                pg_snapshot_xmax({snapshot}::pg_snapshot)::text::numeric, min(open.xid::text::numeric)
            ) % 4294967296)::bigint::text::xid)
            from pg_snapshot_xip({snapshot}::pg_snapshot) as open (xid)
            where open.xid not in (select pg_snapshot_xip(pg_current_snapshot()))
        )
        """
    ).format(snapshot=sql.Literal(snapshot))


def written_since(xmin: int) -> sql.Composable:
    """Condition of the xmin scan on a source row: it may have been written after a snapshot with this `xmin`."""
    return sql.SQL("age(xmin) <= (select age({}::xid))").format(sql.Literal(str(xmin % 2**32)))
