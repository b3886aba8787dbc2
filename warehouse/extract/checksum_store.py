"""Stored checksums of each source table, so that the next run finds deletes without hashing the mirror again.

The tables are unlogged: after a crash of the server they are empty, and the next run hashes the mirror once.
"""

from collections.abc import Sequence
from datetime import datetime

import psycopg

from warehouse.extract.checksums import Checksums, Chunk
from warehouse.extract.column import Column
from warehouse.sources.declaration import Table


def store_checksums(
    connection: psycopg.Connection,
    table: Table,
    captured_at: datetime,
    columns: Sequence[Column],
    digest: Checksums,
    chunks: int,
) -> None:
    """Store the digest of the source at the snapshot of `captured_at`, replacing the earlier one."""
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


def stored_checksums(
    connection: psycopg.Connection,
    table: Table,
    captured_at: datetime,
    columns: Sequence[Column],
    *,
    if_verified: bool = False,
) -> tuple[dict[int, Chunk], int] | None:
    """Read the digest of the source at the snapshot of `captured_at` and its number of chunks; None if not stored.

    It is the digest of the last run that staged, even if that run published nothing. `if_verified`: None, too, if the
    mirror was not verified against it.
    """
    rows = connection.execute(
        """
        select source_checksum.chunks, bucket, row_count, key_sum, content_sum
        from staging.source_checksum left join staging.source_chunk using (source, table_name)
        where source = %(source)s and table_name = %(table)s and captured_at = %(captured_at)s
            and column_names = %(columns)s
            and (not %(if_verified)s or exists (
                select from audit.verification
                inner join audit.watermark using (run_id, source, table_name, captured_at)
                where source = %(source)s and table_name = %(table)s and captured_at = %(captured_at)s
                    and verdict = 'equal'
            ))
        """,
        {
            "source": table.source,
            "table": table.name,
            "captured_at": captured_at,
            "columns": [column.name for column in columns],
            "if_verified": if_verified,
        },
    ).fetchall()
    if not rows:
        return None
    digest = {
        bucket: Chunk(count, int(keys), int(content))
        for _, bucket, count, keys, content in rows
        if bucket is not None
    }
    return digest, rows[0][0]
