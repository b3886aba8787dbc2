"""Reconcile a mirror with its source: find and repair damaged rows, and count rows that the source has changed since.

A row that differs is pending if the source wrote it after the snapshot in which its key range, or else its table, was
last verified; otherwise it is damaged. If its xmin cannot decide that (a row that the last run may have read, a deleted
row, rows of a newly attached partition), its chunk does: a chunk of the mirror with the hash that the source had at the
last snapshot is undamaged.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.errors import SchemaDrift, SourceError
from warehouse.extract.access_paths import read_access_paths
from warehouse.extract.checksum_store import stored_checksums
from warehouse.extract.checksums import (
    Checksums,
    Hashing,
    chunks_for,
    compute_checksums,
    differing_chunks,
    hashing,
    key_hash,
    row_count,
    row_hash,
)
from warehouse.extract.column import Column
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.extract.key_ranges import (
    BOUND_VALUE,
    KeyRange,
    bound_of,
    keep_bounds,
    read_ranges,
    touched_ranges,
)
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.table_catalog import TableCatalog
from warehouse.extract.table_identity import TableIdentity, stored_in
from warehouse.extract.watermark import Watermark, find_window
from warehouse.reconcile.compare import Comparison, compare, count, list_differences, repair
from warehouse.reconcile.verdict import Verdict
from warehouse.sources.source import Table

SOURCE_ROW = sql.Identifier("pg_temp", "source_row")
# Column for the age of a source row in transactions, null if it is unknown.
AGE = sql.Identifier("<age>")


@dataclass(frozen=True)
class _Captured:
    """A source table that has a mirror, and how its rows are hashed on both sides."""

    reader: psycopg.Connection
    writer: psycopg.Connection
    table: Table
    columns: tuple[Column, ...]
    watermark: Watermark
    chunks: int
    method: Hashing
    has_transaction_ids: bool
    # Expression for the age of a source row in transactions; null if the next run reads the row anyway.
    age: sql.Composable
    # Set if the table is verified by key ranges.
    order: KeyOrder | None = None
    ranges: Sequence[KeyRange] = ()

    def age_of(self, xmin: int) -> int:
        """Return the age, in transactions of the source, of a transaction with this 64-bit id."""
        row = self.reader.execute("select age(%s::xid)", [str(xmin % 2**32)]).fetchone()
        assert row is not None
        return int(row[0])

    def key(self, *, at_source: bool = False) -> sql.Composable:
        """Expression for the hash of a row's key."""
        return key_hash(self.table.key, self.columns, self.method, at_source=at_source)

    def bucket(self, *, at_source: bool = False) -> sql.Composable:
        """Expression for the number of a row's chunk."""
        return sql.SQL("({} & {})").format(self.key(at_source=at_source), sql.Literal(self.chunks - 1))


def why_not_loaded(connection: psycopg.Connection, table: Table) -> str:
    """Explain why `table` has no watermark: no run has captured it, or the run was undone and its mirror is empty."""
    row = connection.execute(
        """
        select run_id from audit.load inner join audit.run using (run_id)
        where source = %s and table_name = %s and status = 'undone'
        order by undone_by_run_id desc, run_id limit 1
        """,
        [table.source, f"raw.{table.mirror}"],
    ).fetchone()
    return f"not loaded since the undo of run {row[0]}" if row else "not captured yet"


def check_same_server(watermarks: Mapping[Table, Watermark], snapshot: Snapshot) -> None:
    """Refuse tables that were read last from another server than the one of the snapshot.

    Raises:
        SourceError: names the first of them.
    """
    for table, watermark in watermarks.items():
        if not watermark.source.is_same_server(snapshot.identity):
            raise SourceError(
                f"Another server of source '{table.source}' has taken over since {table} was read last: what is "
                "damaged and what has changed cannot be told apart.",
                hint=f"Load it first: `dwh run {table.source}`.",
            )


def reconcile_mirror(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    run_id: int,
    table: Table,
    catalog: TableCatalog,
    watermark: Watermark,
    snapshot: Snapshot,
) -> Verdict:
    """Repair the mirror of `table`, which shows the source as of `watermark`, in the writer's transaction.

    Raises:
        SchemaDrift: the key is of another type in the source than when it was read last.
    """
    started = time.monotonic()
    # Columns that are new in the source, or have another type there, are not compared: the next run captures them.
    columns = tuple(
        column for column in catalog.drift.columns if catalog.mirror.columns.get(column.name) == column.type
    )
    if retyped := sorted(set(table.key) - {column.name for column in columns}):
        raise SchemaDrift(
            f"Table {table} of source '{table.source}' has changed since it was read last: its key {retyped[0]} is "
            "new or of another type, and rows are matched by it.",
            hint=f"Load it first: `dwh run {table.source}`.",
        )
    digest = stored_checksums(writer, {table: (watermark.captured_at, columns)}).get(table)
    stored = digest.checksums if digest else None
    chunks = digest.chunks if digest else chunks_for(_row_count(writer, table))
    captured = _Captured(
        reader,
        writer,
        table,
        columns,
        watermark,
        chunks,
        hashing(reader, writer),
        catalog.has_transaction_ids,
        _age(table, catalog.identity, watermark, snapshot)
        if catalog.has_transaction_ids
        else sql.SQL("null::integer"),
    )
    # Source and warehouse are different servers: hash both in parallel.
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(
            compute_checksums,
            reader,
            sql.Identifier(*table.at_source),
            table.key,
            columns,
            chunks,
            captured.method,
            at_source=True,
        )
        mirror = compute_checksums(
            writer,
            sql.Identifier("raw", table.mirror),
            table.key,
            columns,
            chunks,
            captured.method,
            where=sql.SQL("not _is_deleted"),
        )
        source = pending.result()
    damaged = differing_chunks(stored, mirror, content=True) if stored is not None else []
    verdict = Verdict(
        "mirror",
        table.source,
        table.name,
        row_count(source),
        row_count(mirror),
        chunks=chunks,
        chunks_differing=len(damaged),
    )
    if buckets := sorted({*damaged, *differing_chunks(source, mirror, content=True)}):
        verdict = _repair(captured, run_id, verdict, buckets, mirror, stored)
    return verdict.timed(started)


def _age(table: Table, identity: TableIdentity, watermark: Watermark, snapshot: Snapshot) -> sql.Composable:
    """Expression for the age of a source row in transactions; null if rows may have been added or changed without one,
    as by attaching a partition or renaming an enum value."""
    window = find_window(table, watermark, snapshot, identity, full_refresh=False)
    if window.watermark is None:
        return sql.SQL("null::integer")
    if window.new_relations:
        return sql.SQL("case when not {} then age(xmin) end").format(stored_in(window.new_relations))
    return sql.SQL("age(xmin)")


def _repair(
    captured: _Captured,
    run_id: int,
    verdict: Verdict,
    buckets: Sequence[int],
    mirror: Checksums,
    stored: Checksums | None,
) -> Verdict:
    """Compare the rows of the chunks `buckets` one by one, and repair the damaged rows."""
    captured = _with_ranges(captured)
    _copy_rows(captured, buckets)
    comparison = Comparison(
        "mirror",
        captured.table.source,
        "raw",
        captured.table.mirror,
        SOURCE_ROW,
        captured.table.key,
        tuple(column.name for column in captured.columns if column.name not in captured.table.key),
        sql.SQL("not found._is_deleted and {} = any({})").format(
            captured.bucket(), sql.Literal(list(buckets))
        ),
        {"_run_id": sql.Literal(run_id)},
        by_image=True,
    )
    differing_rows = compare(captured.writer, comparison).rows_differing
    _remove_pending(captured, comparison, mirror, stored)
    pending = _find_pending(captured, comparison)
    damaged = count(captured.writer)
    differences = list_differences(captured.writer, comparison)
    # Mirror rows that are marked as deleted have the keys of rows to insert: delete them first.
    captured.writer.execute(
        sql.SQL(
            """
            delete from {table} as found using {different} as different, {expected} as expected
            where found._is_deleted and different.problem = 'missing' and expected.ctid = different.wanted and {same}
            """
        ).format(**comparison.names)
    )
    repair(captured.writer, comparison)
    return replace(
        verdict,
        rows_differing=damaged,
        rows_pending=differing_rows - damaged,
        chunks_differing=verdict.chunks_differing or int(damaged > 0),
        differences=differences,
        rows_missed=pending.rows_missed,
        pending_ranges=pending.ranges,
        missed_ranges=pending.missed_ranges,
    )


def _with_ranges(captured: _Captured) -> _Captured:
    if not captured.has_transaction_ids:
        return captured
    table = captured.table
    paths = read_access_paths(captured.reader, captured.writer, {table: captured.columns})
    order = paths[table].key_order
    ranges = read_ranges(captured.writer, captured.table, order) if order else []
    return replace(captured, order=order, ranges=ranges) if ranges else captured


def _copy_rows(captured: _Captured, buckets: Sequence[int]) -> None:
    """Fill pg_temp.source_row with the source's rows of the chunks `buckets`, each with its age."""
    captured.writer.execute("drop table if exists pg_temp.source_row")
    captured.writer.execute(
        sql.SQL("create temp table source_row on commit drop as select {}, 0 as {} from {} limit 0").format(
            listed([column.name for column in captured.columns]),
            AGE,
            sql.Identifier("raw", captured.table.mirror),
        )
    )
    outgoing = sql.SQL("copy (select {}, {} from {} where {} = any({})) to stdout (format binary)").format(
        sql.SQL(", ").join(column.selected for column in captured.columns),
        captured.age,
        sql.Identifier(*captured.table.at_source),
        captured.bucket(at_source=True),
        sql.Literal(list(buckets)),
    )
    copy_stream(
        captured.reader,
        outgoing,
        captured.writer,
        sql.SQL("copy pg_temp.source_row from stdin (format binary)"),
    )
    captured.writer.execute("analyze pg_temp.source_row")


def _remove_pending(
    captured: _Captured, comparison: Comparison, mirror: Checksums, stored: Checksums | None
) -> None:
    """Remove pending rows from pg_temp.different, so that only damaged ones remain."""
    names = comparison.names | {
        "age": AGE,
        "verified_age": _verified_age(captured),
        "bucket": captured.bucket(),
        "content": row_hash(captured.columns, captured.method),
    }
    captured.writer.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.judged;
            create temp table judged on commit drop as
            select
                different.*,
                coalesce(found.bucket, expected.bucket) as bucket,
                coalesce(expected.is_written_since, different.problem = 'extra' and found.is_of_a_run)
                    as may_be_pending,
                coalesce(expected.content, 0)::numeric - coalesce(found.content, 0) as shift
            from {different} as different
            left join lateral (
                select
                    {bucket} as bucket, {content} as content,
                    exists (select from audit.run where run_id = _run_id) as is_of_a_run
                from {table} where ctid = different.place
            ) as found on true
            left join lateral (
                select
                    {bucket} as bucket, {content} as content,
                    coalesce({age} <= {verified_age}, true) as is_written_since
                from {expected} as expected where ctid = different.wanted
            ) as expected on true
            """
        ).format(**names)
    )
    unclear = captured.writer.execute(
        """
        select bucket, coalesce(sum(shift) filter (where not may_be_pending), 0) from pg_temp.judged
        group by bucket having bool_or(may_be_pending)
        """
    ).fetchall()
    # If repairing the rows that are certainly damaged restores the chunk's stored hash, its other rows are pending.
    undamaged = [
        bucket
        for bucket, shift in unclear
        if stored is None or _content(mirror, bucket) + int(shift) == _content(stored, bucket)
    ]
    captured.writer.execute(
        sql.SQL(
            """
            truncate {different};
            insert into {different} select problem, place, wanted from pg_temp.judged
            where not (may_be_pending and bucket = any({undamaged}::bigint[]))
            """
        ).format(**names, undamaged=sql.Literal(undamaged))
    )


def _verified_age(captured: _Captured) -> sql.Composable:
    """Expression for the age, in transactions, of the last verification of the key of a row of `expected`."""
    complete_xmin = captured.watermark.complete_xmin
    age = captured.age_of(complete_xmin)
    if captured.order is None:
        return sql.Literal(age)
    # Ranges without `verified_at` (after an undo, or if a run found differences) count as verified with the table.
    ages = {
        one.low: age - (max(one.snapshot_xmin - complete_xmin, 0) if one.verified_at else 0)
        for one in captured.ranges
    }
    keep_bounds(captured.writer, captured.order, ages)
    return sql.SQL("coalesce(({}), {})").format(
        bound_of(captured.order, "expected", BOUND_VALUE), sql.Literal(ages[captured.ranges[0].low])
    )


@dataclass(frozen=True)
class _Pending:
    """Number of pending rows that the next read by the cursor will miss; key ranges with pending and with such rows."""

    rows_missed: int
    ranges: set[Bound]
    missed_ranges: set[Bound]


def _find_pending(captured: _Captured, comparison: Comparison) -> _Pending:
    cursor, watermark = captured.table.cursor, captured.watermark
    captured.writer.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.pending_key;
            create temp table pending_key on commit drop as
            select {found_key}, true as is_missed
            from pg_temp.judged as judged inner join {table} as found on found.ctid = judged.place
            where judged.problem = 'extra'
                and not exists (select from {different} as damaged where damaged.place = judged.place)
            union all
            select {expected_key}, ({cursor} > {high} and expected.{age} <= {read_age}) is not true
            from pg_temp.judged as judged inner join {expected} as expected on expected.ctid = judged.wanted
            where not exists (select from {different} as damaged where damaged.wanted = judged.wanted)
            """
        ).format(
            **comparison.names,
            expected_key=qualified("expected", captured.table.key),
            age=AGE,
            read_age=sql.Literal(captured.age_of(watermark.snapshot_xmin)),
            cursor=sql.Identifier("expected", cursor) if cursor else sql.NULL,
            high=sql.Literal(watermark.cursor_value if cursor else None),
        )
    )
    row = captured.writer.execute("select count(*) from pg_temp.pending_key where is_missed").fetchone()
    assert row is not None
    if captured.order is None:
        return _Pending(row[0], set(), set())

    def find_ranges(condition: str) -> set[Bound]:
        assert captured.order is not None
        keys = sql.SQL("(select * from pg_temp.pending_key where {}) as pending").format(sql.SQL(condition))
        return touched_ranges(captured.writer, captured.order, captured.ranges, keys)

    return _Pending(row[0], find_ranges("true"), find_ranges("is_missed"))


def _content(digest: Checksums, bucket: int) -> int:
    return digest[bucket].content if bucket in digest else 0


def _row_count(writer: psycopg.Connection, table: Table) -> int:
    row = writer.execute(
        "select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(format('raw.%%I', %s::text))",
        [table.mirror],
    ).fetchone()
    return int(row[0]) if row else 0
