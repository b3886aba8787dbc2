"""Record key ranges in the transaction that publishes what was found in them: cut, verified, split and merged."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.extract.key_ranges import Turn, VerifiedRange
from warehouse.extract.limits import ReadLimits
from warehouse.extract.range_cuts import Split, cut
from warehouse.extract.snapshot import Snapshot
from warehouse.sources.source import Table, fitted


def replace_ranges(
    connection: psycopg.Connection,
    run_id: int,
    tables: Sequence[tuple[Table, KeyOrder | None]],
    snapshot: Snapshot,
    limits: ReadLimits,
) -> None:
    """Divide tables that were compared completely into new key ranges; a table without a key order gets none."""
    connection.execute(
        "delete from audit.key_range where (source, table_name) in (select unnest(%s::text[]), unnest(%s::text[]))",
        [[table.source for table, _ in tables], [table.name for table, _ in tables]],
    )
    for table, order in tables:
        if order is None:
            continue
        if order.needs_mirror_index:
            connection.execute(
                sql.SQL("create index if not exists {} on {} ({})").format(
                    sql.Identifier(fitted(f"ix_{table.mirror}_key_order")),
                    sql.Identifier("raw", table.mirror),
                    order.sorted(),
                )
            )
        parts = cut(connection, table, order, (), (), limits.range_rows)
        _write_ranges(connection, run_id, table, parts, snapshot, "whole")


def update_ranges(
    connection: psycopg.Connection,
    run_id: int,
    table: Table,
    order: KeyOrder,
    verified: Sequence[VerifiedRange],
    snapshot: Snapshot,
    limits: ReadLimits,
) -> int:
    """Record the `verified` ranges, given in key order; split those that have grown, merge neighbours that have shrunk.

    Returns the oldest xmin of all ranges: every transaction committed before it is known to be captured.
    """
    merged: VerifiedRange | None = None
    merged_rows = 0
    for one in verified:
        if (
            merged is not None
            and merged.high == one.low
            and merged_rows + one.row_count < limits.range_rows / 2
        ):
            connection.execute(
                "delete from audit.key_range where source = %s and table_name = %s and low_key = %s::text[]",
                [table.source, table.name, list(one.low)],
            )
            merged_rows += one.row_count
            _write_ranges(connection, run_id, table, [(merged.low, merged_rows)], snapshot, merged.turn)
            merged = replace(merged, high=one.high)
            continue
        parts = [(one.low, one.row_count)]
        if one.row_count > 2 * limits.range_rows:
            parts = cut(connection, table, order, one.low, one.high, limits.range_rows)
        _write_ranges(connection, run_id, table, parts, snapshot, one.turn)
        merged, merged_rows = (one, one.row_count) if len(parts) == 1 else (None, 0)
    row = connection.execute(
        "select min(snapshot_xmin) from audit.key_range where source = %s and table_name = %s",
        [table.source, table.name],
    ).fetchone()
    assert row is not None
    return int(row[0])


def record_splits(connection: psycopg.Connection, run_id: int, table: Table, splits: Sequence[Split]) -> None:
    """Record the parts of ranges that a batch has split: verified when the whole was, unless the run verifies them."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.key_range
                (source, table_name, low_key, verified_at, snapshot_xmin, row_count, turn, run_id)
            select source, table_name, %s, verified_at, snapshot_xmin, %s, turn, %s from audit.key_range
            where source = %s and table_name = %s and low_key = %s::text[]
            on conflict (source, table_name, low_key) do update set
                row_count = excluded.row_count, run_id = excluded.run_id
            """,
            [
                (list(low), rows, run_id, table.source, table.name, list(split.low))
                for split in splits
                for low, rows in split.parts
            ],
        )


def mark_verified(
    connection: psycopg.Connection,
    run_id: int,
    table: Table,
    snapshot: Snapshot,
    *,
    pending: Collection[Bound],
    missed: Collection[Bound],
) -> None:
    """Record that a reconcile has verified all ranges of a table to be equal, except those with `pending` rows.

    Ranges with rows that reads by the cursor have `missed` become the next to be verified.
    """
    for one_snapshot, condition, lows in (
        (snapshot.taken_at, "<> all", [*pending, *missed]),
        (None, "= any", [*missed]),
    ):
        connection.execute(
            sql.SQL(
                """
                update audit.key_range set
                    verified_at = %s, snapshot_xmin = case when %s then %s else snapshot_xmin end, turn = 'whole',
                    run_id = %s
                where source = %s and table_name = %s and to_jsonb(low_key) {condition}(%s::jsonb[])
                """
            ).format(condition=sql.SQL(condition)),
            [
                one_snapshot,
                one_snapshot is not None,
                snapshot.xmin,
                run_id,
                table.source,
                table.name,
                [Jsonb(list(low)) for low in lows],
            ],
        )


def mark_table_verified(
    connection: psycopg.Connection, table: Table, snapshot: Snapshot, *, is_equal: bool
) -> None:
    """Record that a reconcile has verified a table without key ranges: as of now if it `is_equal`, else as of the last
    read, since the next read by the cursor finds the differences.
    """
    connection.execute(
        """
        update audit.watermark as watermark set
            complete_at = case when %s then %s else captured_at end, complete_xmin = snapshot_xmin
        where source = %s and table_name = %s
            and not exists (
                select from audit.key_range as one
                where (one.source, one.table_name) = (watermark.source, watermark.table_name)
            )
        """,
        [is_equal, snapshot.taken_at, table.source, table.name],
    )


def forget_ranges_since(connection: psycopg.Connection, source: str, run_id: int) -> None:
    """Discard the verifications of `source` by reconciles since run `run_id`, which is being undone."""
    connection.execute(
        "update audit.key_range set verified_at = null where source = %s and run_id >= %s", [source, run_id]
    )
    connection.execute(
        "update audit.watermark set complete_at = captured_at where source = %s and complete_at > captured_at",
        [source],
    )


def forget_verification(connection: psycopg.Connection, run_id: int, source: str, table_name: str) -> None:
    """Mark the ranges that a run has verified as not verified, so that they are verified next. A table that the run
    has compared completely is due for a scan again."""
    for statement in (
        "update audit.key_range set verified_at = null where source = %s and table_name = %s and run_id = %s",
        # This has no effect on a table that is verified by key ranges.
        "update audit.watermark set complete_at = 'epoch' where source = %s and table_name = %s and run_id = %s",
    ):
        connection.execute(statement.encode(), [source, table_name, run_id])


def discard_ranges(connection: psycopg.Connection, source: str, table_name: str) -> None:
    """Discard the ranges of a table whose mirror was rebuilt, and may lack its index: the next run scans the table,
    compares all of it and divides it into new ranges."""
    for statement in (
        "delete from audit.key_range where source = %s and table_name = %s",
        "update audit.watermark set complete_at = 'epoch' where source = %s and table_name = %s",
    ):
        connection.execute(statement.encode(), [source, table_name])


def forget_unverified(connection: psycopg.Connection, source: str) -> int:
    """Discard the verifications of runs of `source` that ended between their publish and the verification after it.

    Call it under the source's lock. Returns the number of pairs of run and table. Later runs of `dwh live` do not hide
    such a run; their own verdict is that they compared nothing.
    """
    runs = connection.execute(
        """
        select known.run_id, known.table_name
        from (
            select run_id, table_name from audit.watermark where source = %(source)s
            union
            select run_id, table_name from audit.key_range where source = %(source)s and verified_at is not null
        ) as known
        inner join audit.run as run on known.run_id = run.run_id
        where run.flow like 'ingest-%%' and not exists (
            select from audit.verification as verdict
            where (verdict.run_id, verdict.source, verdict.table_name) = (known.run_id, %(source)s, known.table_name)
        )
        """,
        {"source": source},
    ).fetchall()
    for run_id, table_name in runs:
        forget_verification(connection, run_id, source, table_name)
    return len(runs)


def _write_ranges(
    connection: psycopg.Connection,
    run_id: int,
    table: Table,
    ranges: Sequence[tuple[Bound, int]],
    snapshot: Snapshot,
    turn: Turn,
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.key_range
                (source, table_name, low_key, verified_at, snapshot_xmin, row_count, turn, run_id)
            values (%s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (source, table_name, low_key) do update set
                verified_at = excluded.verified_at, snapshot_xmin = excluded.snapshot_xmin,
                row_count = excluded.row_count, turn = excluded.turn, run_id = excluded.run_id
            """,
            [
                (table.source, table.name, list(low), snapshot.taken_at, snapshot.xmin, rows, turn, run_id)
                for low, rows in ranges
            ],
        )
