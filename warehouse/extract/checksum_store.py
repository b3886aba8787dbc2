"""Stored checksums of each source table, so that the next run finds deletes without hashing the mirror again.

The tables are unlogged: after a crash of the server they are empty, and the next run hashes the mirror once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from warehouse.extract.checksums import Checksums, Chunk
from warehouse.extract.column import Column
from warehouse.sources.source import Table


@dataclass(frozen=True)
class Digest:
    """Checksums of all rows of a source table, divided into `chunks` chunks."""

    table: Table
    columns: Sequence[Column]
    checksums: Checksums
    chunks: int


def store_checksums(connection: psycopg.Connection, captured_at: datetime, digests: Sequence[Digest]) -> None:
    """Store the digests of source tables at the snapshot of `captured_at`, replacing their earlier digests."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into staging.source_checksum (source, table_name, captured_at, chunks, column_names)
            values (%s, %s, %s, %s, %s)
            on conflict (source, table_name) do update set
                captured_at = excluded.captured_at, chunks = excluded.chunks, column_names = excluded.column_names
            """,
            [
                (
                    one.table.source,
                    one.table.name,
                    captured_at,
                    one.chunks,
                    [column.name for column in one.columns],
                )
                for one in digests
            ],
        )
    connection.execute(
        """
        delete from staging.source_chunk
        where (source, table_name) in (select unnest(%s::text[]), unnest(%s::text[]))
        """,
        [[one.table.source for one in digests], [one.table.name for one in digests]],
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy staging.source_chunk (source, table_name, chunks, bucket, row_count, key_sum, content_sum) from stdin"
        ) as copy,
    ):
        for one in digests:
            source, name = one.table.source, one.table.name
            for bucket, chunk in one.checksums.items():
                copy.write_row((source, name, one.chunks, bucket, chunk.rows, chunk.keys, chunk.content))


def stored_checksums(
    connection: psycopg.Connection,
    wanted: Mapping[Table, tuple[datetime, Sequence[Column]]],
    *,
    if_verified: bool = False,
) -> dict[Table, Digest]:
    """Read the stored digest of each table in `wanted`, if it is of that snapshot's time and of the same columns.

    Stored are the digests of the last run that staged, even if that run published nothing. With `if_verified`, only
    digests to which the mirror was verified to be equal are returned.
    """
    if not wanted:
        return {}
    tables = list(wanted)
    rows = connection.execute(
        """
        select place, source_checksum.chunks, column_names, bucket, row_count, key_sum, content_sum
        from unnest(%(sources)s::text[], %(tables)s::text[], %(moments)s::timestamptz[])
            with ordinality as wanted (source, table_name, captured_at, place)
        inner join staging.source_checksum using (source, table_name, captured_at)
        left join staging.source_chunk using (source, table_name)
        where not %(if_verified)s or exists (
            select from audit.verification
            inner join audit.watermark using (run_id, source, table_name, captured_at)
            where verification.source = wanted.source and verification.table_name = wanted.table_name
                and verification.captured_at = wanted.captured_at and verdict = 'equal'
        )
        """,
        {
            "sources": [table.source for table in tables],
            "tables": [table.name for table in tables],
            "moments": [captured_at for captured_at, _ in wanted.values()],
            "if_verified": if_verified,
        },
    ).fetchall()
    stored: dict[Table, tuple[int, dict[int, Chunk]]] = {}
    for place, chunks, names, bucket, count, keys, content in rows:
        table = tables[place - 1]
        if names != [column.name for column in wanted[table][1]]:
            continue
        _, checksums = stored.setdefault(table, (chunks, {}))
        if bucket is not None:
            checksums[bucket] = Chunk(count, int(keys), int(content))
    return {
        table: Digest(table, wanted[table][1], checksums, chunks)
        for table, (chunks, checksums) in stored.items()
    }
