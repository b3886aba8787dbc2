"""Source and mirror: which rows of a mirror are not the source's, and which the source has changed since the last run.

A row that differs is news if the source wrote it after the last run's snapshot, and damage if it did not. Where that
cannot be told of a row (the net may hold rows that the run has seen, and a row that is gone has no writer), its chunk
tells: a chunk of the mirror that still has the hash which the source had at the last snapshot is undamaged.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.extract.checksum_store import kept_digest
from warehouse.extract.checksums import (
    Digest,
    Hashing,
    chunks_for,
    differing,
    digest,
    hashing,
    key_hash,
    row_hash,
    rows_of,
)
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.mirror import Column, find_drift, mirrored_columns, source_columns
from warehouse.extract.snapshot import Snapshot, check_readable
from warehouse.extract.stage import Watermark, check_same_source, in_net, watermark_of
from warehouse.reconcile.compare import Comparison, compare, count, list_differences, repair
from warehouse.reconcile.verdict import Verdict
from warehouse.sources.declaration import Table

SOURCE_ROW = sql.Identifier("pg_temp", "source_row")
IN_NET = sql.Identifier("<in net>")


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

    def key(self, *, at_source: bool = False) -> sql.Composable:
        """Hash of a row's key."""
        return key_hash(self.table.key, self.columns, self.method, at_source=at_source)

    def bucket(self, *, at_source: bool = False) -> sql.Composable:
        """Chunk that a row falls into."""
        return sql.SQL("({} & {})").format(self.key(at_source=at_source), sql.Literal(self.chunks - 1))


def reconcile_mirror(
    reader: psycopg.Connection, writer: psycopg.Connection, run_id: int, table: Table, snapshot: Snapshot
) -> Verdict | None:
    """Mend the mirror of `table` in the writer's transaction; None where it has not been captured yet.

    Raises:
        SourceError, SchemaDrift: the source cannot be read whole, or is another one than was read last.
    """
    started = time.monotonic()
    watermark = watermark_of(writer, table)
    if watermark is None:
        return None
    check_readable(reader, table)
    check_same_source(watermark, snapshot, table)
    # A column that the source has gained, or that has another type there, is news; the next run brings it.
    here = mirrored_columns(writer, table)
    columns = tuple(
        column
        for column in find_drift(writer, table, source_columns(reader, table)).columns
        if here.get(column.name) == column.type
    )
    kept, chunks = kept_digest(writer, table, watermark.captured_at, columns) or (
        None,
        chunks_for(_row_count(writer, table)),
    )
    of = _Captured(reader, writer, table, columns, watermark, chunks, hashing(reader, writer))
    # Two servers are asked, so both can work at once.
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(
            digest,
            reader,
            sql.Identifier(table.schema, table.name),
            table.key,
            columns,
            chunks,
            of.method,
            at_source=True,
        )
        mirror = digest(
            writer,
            sql.Identifier("raw", table.mirror),
            table.key,
            columns,
            chunks,
            of.method,
            where=sql.SQL("not _is_deleted"),
        )
        there = asked.result()
    broken = differing(kept, mirror, content=True) if kept is not None else []
    verdict = Verdict(
        "mirror",
        table.source,
        table.name,
        rows_of(there),
        rows_of(mirror),
        chunks=chunks,
        chunks_differing=len(broken),
    )
    if buckets := sorted({*broken, *differing(there, mirror, content=True)}):
        verdict = _judge(of, run_id, verdict, buckets, mirror, kept)
    return verdict.timed(started)


def _judge(
    of: _Captured,
    run_id: int,
    verdict: Verdict,
    buckets: Sequence[int],
    mirror: Digest,
    kept: Digest | None,
) -> Verdict:
    """Compare the rows of `buckets` one by one, and mend what is damaged."""
    _copy_rows(of, buckets)
    comparison = Comparison(
        "mirror",
        of.table.source,
        "raw",
        of.table.mirror,
        SOURCE_ROW,
        of.table.key,
        tuple(column.name for column in of.columns if column.name not in of.table.key),
        sql.SQL("not found._is_deleted and {} = any({})").format(of.bucket(), sql.Literal(list(buckets))),
        {"_run_id": sql.Literal(run_id)},
        by_image=True,
    )
    found = compare(of.writer, comparison).rows_differing
    _set_news_aside(of, comparison, mirror, kept)
    damaged = count(of.writer)
    differences = list_differences(of.writer, comparison)
    # A row that was marked as deleted is in the way of the row itself.
    of.writer.execute(
        sql.SQL(
            """
            delete from {table} as found using {different} as different, {expected} as expected
            where found._is_deleted and different.problem = 'missing' and expected.ctid = different.wanted and {same}
            """
        ).format(**comparison.names)
    )
    repair(of.writer, comparison)
    return replace(
        verdict,
        rows_differing=damaged,
        rows_pending=found - damaged,
        chunks_differing=verdict.chunks_differing or int(damaged > 0),
        differences=differences,
    )


def _copy_rows(of: _Captured, buckets: Sequence[int]) -> None:
    """Fill pg_temp.source_row with the source's rows of `buckets`, each with whether it may be news."""
    of.writer.execute("drop table if exists pg_temp.source_row")
    of.writer.execute(
        sql.SQL(
            "create temp table source_row on commit drop as select {}, true as {} from {} limit 0"
        ).format(
            listed([column.name for column in of.columns]), IN_NET, sql.Identifier("raw", of.table.mirror)
        )
    )
    outgoing = sql.SQL("copy (select {}, {} from {} where {} = any({})) to stdout (format binary)").format(
        sql.SQL(", ").join(column.selected for column in of.columns),
        in_net(of.watermark),
        sql.Identifier(of.table.schema, of.table.name),
        of.bucket(at_source=True),
        sql.Literal(list(buckets)),
    )
    copy_stream(of.reader, outgoing, of.writer, sql.SQL("copy pg_temp.source_row from stdin (format binary)"))
    of.writer.execute("analyze pg_temp.source_row")


def _set_news_aside(of: _Captured, comparison: Comparison, mirror: Digest, kept: Digest | None) -> None:
    """Take what is news, not damage, out of pg_temp.different."""
    names = comparison.names | {
        "in_net": IN_NET,
        "bucket": of.bucket(),
        "content": row_hash(of.columns, of.method),
    }
    of.writer.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.judged;
            create temp table judged on commit drop as
            select
                different.*,
                coalesce(found.bucket, expected.bucket) as bucket,
                coalesce(expected.is_in_net, different.problem = 'extra') as may_be_news,
                coalesce(expected.content, 0)::numeric - coalesce(found.content, 0) as shift
            from {different} as different
            left join lateral (
                select {bucket} as bucket, {content} as content from {table} where ctid = different.place
            ) as found on true
            left join lateral (
                select {bucket} as bucket, {content} as content, {in_net} as is_in_net
                from {expected} where ctid = different.wanted
            ) as expected on true
            """
        ).format(**names)
    )
    doubtful = of.writer.execute(
        """
        select bucket, coalesce(sum(shift) filter (where not may_be_news), 0) from pg_temp.judged
        group by bucket having bool_or(may_be_news)
        """
    ).fetchall()
    # With what is surely damaged mended, the chunk is as the last snapshot had it: all else in it is news.
    sound = [
        bucket
        for bucket, shift in doubtful
        if kept is None or _content(mirror, bucket) + int(shift) == _content(kept, bucket)
    ]
    of.writer.execute(
        sql.SQL(
            """
            truncate {different};
            insert into {different} select problem, place, wanted from pg_temp.judged
            where not (may_be_news and bucket = any({sound}::bigint[]))
            """
        ).format(**names, sound=sql.Literal(sound))
    )


def _content(of: Digest, bucket: int) -> int:
    return of[bucket].content if bucket in of else 0


def _row_count(writer: psycopg.Connection, table: Table) -> int:
    row = writer.execute(
        "select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(format('raw.%%I', %s::text))",
        [table.mirror],
    ).fetchone()
    return int(row[0]) if row else 0
