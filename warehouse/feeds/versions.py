"""Deduplicate a feed's staged records: keep the last version of each key, with the rows of its lists."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract.catalog import mirror_exists
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.sources.feed import FILE_ID, LINE
from warehouse.sources.source import Source


def remove_earlier_versions(connection: psycopg.Connection, source: Source) -> list[tuple[int, int]]:
    """Delete all but the last version of each record from staging. Returns the number of deleted ones by file_id."""
    names = _names(source)
    has_several = connection.execute(
        sql.SQL("select from {batch} group by {key} having count(*) > 1 limit 1").format(**names)
    ).rowcount
    if not has_several:
        return []
    # ctid orders rows as they were read, since COPY appends to the table.
    removed = connection.execute(
        sql.SQL(
            """
            with version as (
                select ctid as place, row_number() over (partition by {key} order by ctid desc) as age from {batch}
            ),

            removed as (
                delete from {batch} as batch using version where batch.ctid = version.place and version.age > 1
                returning batch.{file_id}
            )

            select {file_id}, count(*) from removed group by {file_id}
            """
        ).format(**names)
    ).fetchall()
    remove_rows_without_record(connection, source)
    return removed


def remove_rows_without_record(connection: psycopg.Connection, source: Source) -> None:
    """Delete list rows from staging whose record is not in staging."""
    names = _names(source)
    for table in source.tables:
        if table.items:
            connection.execute(
                sql.SQL(
                    "delete from {items} as item where not exists (select from {batch} as batch where {same} "
                    "and batch.{file_id} = item.{file_id} and batch.{line} = item.{line})"
                ).format(**names, items=batch_table(table), same=same_key(source.record.key, "batch", "item"))
            )


def find_deleted_rows(connection: psycopg.Connection, source: Source) -> dict[str, int]:
    """Stage the keys of list rows that are in the mirror, but not in the new version of their record.

    Returns their numbers by table.
    """
    counts = {}
    for table in source.tables:
        if not table.items or not mirror_exists(connection, table):
            continue
        counts[table.name] = connection.execute(
            sql.SQL(
                """
                insert into {deleted} ({key})
                select {mirror_key} from {mirror} as mirror inner join {batch} as record on {same_record}
                where not mirror._is_deleted and not exists (select from {items} as item where {same})
                """
            ).format(
                **_names(source) | {"key": listed(table.key)},
                deleted=deleted_table(table),
                mirror_key=qualified("mirror", table.key),
                mirror=sql.Identifier("raw", table.mirror),
                same_record=same_key(source.record.key, "mirror", "record"),
                items=batch_table(table),
                same=same_key(table.key, "mirror", "item"),
            )
        ).rowcount
    return counts


def _names(source: Source) -> dict[str, sql.Composable]:
    return {
        "batch": batch_table(source.record),
        "key": listed(source.record.key),
        "file_id": sql.Identifier(FILE_ID),
        "line": sql.Identifier(LINE),
    }
