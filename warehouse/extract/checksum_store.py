"""Digests of a source that are kept from run to run, in tables that a crash of the server may empty."""

from collections.abc import Sequence
from datetime import datetime

import psycopg

from warehouse.extract.checksums import Chunk, Digest
from warehouse.extract.mirror import Column
from warehouse.sources.declaration import Table


def keep_digest(
    connection: psycopg.Connection,
    table: Table,
    captured_at: datetime,
    columns: Sequence[Column],
    digest: Digest,
    chunks: int,
) -> None:
    """Keep what the source held at the snapshot of `captured_at`, in place of what was kept of it."""
    connection.execute(
        """
        insert into staging.source_checksum (source, table_name, captured_at, chunks, column_names)
        values (%s, %s, %s, %s, %s)
        on conflict (source, table_name) do update set
            captured_at = excluded.captured_at, chunks = excluded.chunks, column_names = excluded.column_names
        """,
        [table.source, table.name, captured_at, chunks, [column.name for column in columns]],
    )
    connection.execute(
        "delete from staging.source_chunk where source = %s and table_name = %s", [table.source, table.name]
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy staging.source_chunk (source, table_name, chunks, bucket, row_count, key_sum, content_sum) from stdin"
        ) as copy,
    ):
        for bucket, chunk in digest.items():
            copy.write_row((table.source, table.name, chunks, bucket, chunk.rows, chunk.keys, chunk.content))


def kept_digest(
    connection: psycopg.Connection, table: Table, captured_at: datetime, columns: Sequence[Column]
) -> tuple[dict[int, Chunk], int] | None:
    """Digest of the source at the snapshot of `captured_at`, and its number of chunks; None where it is not kept.

    It is of the last run that staged, which may have published nothing; and a crash of the server takes it away.
    """
    header = connection.execute(
        """
        select chunks from staging.source_checksum
        where source = %s and table_name = %s and captured_at = %s and column_names = %s
        """,
        [table.source, table.name, captured_at, [column.name for column in columns]],
    ).fetchone()
    if header is None:
        return None
    rows = connection.execute(
        """
        select bucket, row_count, key_sum, content_sum from staging.source_chunk
        where source = %s and table_name = %s
        """,
        [table.source, table.name],
    ).fetchall()
    return {bucket: Chunk(count, int(keys), int(content)) for bucket, count, keys, content in rows}, header[0]


def proven_digest(
    connection: psycopg.Connection,
    table: Table,
    captured_at: datetime,
    columns: Sequence[Column],
    chunks: int,
) -> dict[int, Chunk] | None:
    """What is kept of the snapshot of `captured_at` in so many chunks, if the mirror was proven to hold the same."""
    equal = connection.execute(
        """
        select from audit.verification inner join audit.watermark using (run_id, source, table_name, captured_at)
        where source = %s and table_name = %s and captured_at = %s and verdict = 'equal'
        """,
        [table.source, table.name, captured_at],
    ).rowcount
    kept = kept_digest(connection, table, captured_at, columns) if equal else None
    return kept[0] if kept and kept[1] == chunks else None
