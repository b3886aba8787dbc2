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

# Half of the 32-bit transaction ids: farther back, xmin cannot distinguish newer from older rows.
XID_HORIZON = 2**31 - 1_000_000


@dataclass(frozen=True)
class Rotation:
    """Progress of one verification of all key ranges of a table, which takes many runs."""

    started_at: datetime
    rows_verified: int = 0
    rows_deleted: int = 0


@dataclass(frozen=True)
class Watermark:
    """How far a table is captured, as audit.watermark recorded it for the last published run.

    It has two positions: that of the last read, from which the next read by the cursor continues, and that of the last
    complete read, from which a scan continues.
    """

    run_id: int
    # Highest cursor and time of the last read, by the cursor's index or complete.
    cursor_value: str | None
    captured_at: datetime
    source: SourceIdentity
    # As read before that snapshot. This and the optional fields below are None in watermarks from before they existed.
    open_transactions: OpenTransactions | None
    table: TableIdentity | None
    # Time and xmin of the last snapshot up to which every row is known to be captured.
    complete_at: datetime
    complete_xmin: int
    # Rows of the mirror that are not deleted.
    row_count: int | None = None
    rotation: Rotation | None = None
    # Changes of the table by the source's own counters, and how many since the rotation began no batch explains.
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
        # The undo of a run from before complete_xmin was recorded restores only the other columns: it may be too high.
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
    # Reasons why more rows are read than newer transactions wrote.
    notes: tuple[str, ...] = ()
    # True if the relations have other files than at the last read, so that some key ranges say nothing of the others.
    is_rewritten: bool = False


def find_window(
    table: Table,
    watermark: Watermark | None,
    snapshot: Snapshot,
    identity: TableIdentity,
    *,
    full_refresh: bool,
) -> Window:
    """Decide from where to read: all rows if transaction ids cannot show which have changed since the watermark."""
    if watermark is None or full_refresh:
        return Window(None)
    if snapshot.xmin - watermark.snapshot_xmin >= XID_HORIZON:
        return Window(None, notes=("so many transactions ran since that all rows are read",))
    if not watermark.source.is_same_server(snapshot.identity):
        return Window(None, notes=("another server has taken over, so that all rows are read",))
    if watermark.table is None:
        return Window(watermark)
    if changes := identity.changes_of_columns(watermark.table):
        return Window(None, notes=(f"{'; '.join(changes)}: all rows are read",))
    new = identity.new_relations(watermark.table)
    if not identity.relations.keys() & watermark.table.relations.keys():
        return Window(
            None, notes=(f"{table} is another table than the one that was read last: all rows are read",)
        )
    names = ", ".join(identity.relations[oid] for oid in new)
    notes = (f"rows of {table} are now stored in {names}, too: these are all read",) if new else ()
    return Window(watermark, tuple(new), notes, is_rewritten=identity.is_rewritten(watermark.table))


def unexplained_changes(watermark: Watermark, changes: int, explained: int) -> int:
    """Count the changes since the rotation began that no batch explains; this run's batch has `explained` so many. A
    counter that went back was reset, and adds none."""
    if watermark.changes_counted is None:
        return 0
    return watermark.changes_unexplained + max(changes - watermark.changes_counted - explained, 0)


def changed_since(
    watermark: Watermark | None, snapshot_xmin: int, *, new_relations: Sequence[str] = ()
) -> sql.Composable:
    """SQL condition for a scan: the row may have changed since the last complete read, or is in `new_relations`.

    If that read is too long ago for transaction ids to show changed rows, the scan's checksums find them.
    """
    if watermark is None:
        return sql.SQL("true")
    condition: sql.Composable = sql.SQL("false")
    if watermark.complete_at == watermark.captured_at:
        condition = written_since_read(watermark)
    elif snapshot_xmin - watermark.complete_xmin < XID_HORIZON:
        condition = written_since(watermark.complete_xmin)
    if new_relations:
        return sql.SQL("({} or {})").format(condition, stored_in(new_relations))
    return condition


def written_since_read(watermark: Watermark) -> sql.Composable:
    """SQL condition: the row may have been written by a transaction that the last read did not see."""
    transactions = watermark.open_transactions
    if transactions is None or transactions.snapshot is None:
        return written_since(watermark.snapshot_xmin)
    return written_after(transactions.snapshot)


def written_after(snapshot: str) -> sql.Composable:
    """SQL condition: the row may have been written by a transaction that ended after `snapshot` (pg_snapshot, as text).

    Transactions that were open then and still are do not count, however old they are: otherwise all rows written since
    the oldest began would be read again and again. Savepoints have later ids than their transactions.
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
    """SQL condition for the xmin scan: the row may have been written after a snapshot with this `xmin`."""
    return sql.SQL("age(xmin) <= (select age({}::xid))").format(sql.Literal(str(xmin % 2**32)))
