"""Rows that differ from the mirror although no newer transaction wrote them: found by checksums, added to the batch.

A table that was renamed into place brings such rows, and so does a partition that was attached, a renamed enum value,
or a wrong timestamp where only the cursor's index was read.
"""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract.checksums import hashing, key_hash
from warehouse.extract.column import Column
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.deletes import EVERYWHERE, Within
from warehouse.extract.staging_tables import batch_table
from warehouse.sources.source import Table


def read_missed_rows(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    already_read: sql.Composable,
    buckets: Sequence[int],
    chunks: int,
    within: Within = EVERYWHERE,
) -> int:
    """Add to the batch the source's rows in `buckets` that the mirror does not have, or has with other values.

    Rows that satisfy the condition `already_read` are in the batch already. Returns the number of rows added.
    """
    if not buckets:
        return 0
    names = [column.name for column in columns]
    writer.execute("drop table if exists pg_temp.missed_row")
    writer.execute(
        sql.SQL("create temp table missed_row on commit drop as select {} from {} limit 0").format(
            listed(names), batch_table(table)
        )
    )
    outgoing = sql.SQL(
        "copy (select {columns} from {table} where {within} and ({hash} & {mask}) = any({buckets}) "
        "and ({already_read}) is not true) to stdout (format binary)"
    ).format(
        columns=sql.SQL(", ").join(column.selected for column in columns),
        table=sql.Identifier(*table.at_source),
        hash=key_hash(table.key, columns, hashing(reader, writer), at_source=True),
        mask=sql.Literal(chunks - 1),
        buckets=sql.Literal(list(buckets)),
        already_read=already_read,
        within=within.at_source,
    )
    copy_stream(reader, outgoing, writer, sql.SQL("copy pg_temp.missed_row from stdin (format binary)"))
    return writer.execute(
        sql.SQL(
            """
            insert into {batch} ({columns})
            select {columns} from pg_temp.missed_row as missed
            where not exists (
                select from {mirror} as mirror
                where not mirror._is_deleted and {same} and row({missed})::record *= row({mirrored})::record
            )
            """
        ).format(
            batch=batch_table(table),
            columns=listed(names),
            mirror=sql.Identifier("raw", table.mirror),
            same=same_key(table.key, "mirror", "missed"),
            missed=qualified("missed", names),
            mirrored=qualified("mirror", names),
        )
    ).rowcount
