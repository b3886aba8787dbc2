"""Find missing tables of the warehouse and create them as declared."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.archive.changed_rows import REFERENCE_TABLES
from warehouse.extract.catalog import find_missing, mirror_exists
from warehouse.extract.column import Column
from warehouse.load.mirror_ddl import create_empty_mirror
from warehouse.model import weblog, weblog_aggregates
from warehouse.model.calendar import DATE
from warehouse.model.calendar_sql import add_days, first_days
from warehouse.model.schema import TABLES, create_table
from warehouse.model.staging import staging_tables
from warehouse.model.star import DIMENSIONS, SNAPSHOTS, TARGETS_BY_NAME, DailySnapshot
from warehouse.model.weblog_aggregates import create_aggregate
from warehouse.rebuild.damage import WEBLOG_TABLES
from warehouse.sources.source import Table


def create_missing(connection: psycopg.Connection) -> list[str]:
    """Create missing schemas and declared tables. Returns the tables' names.

    Their views, functions, triggers, comments and grants are created by `warehouse.migrations.declared.apply`.
    """
    for (schema,) in connection.execute(
        "select name from unnest(%s::text[]) as schema (name) where to_regnamespace(name) is null",
        [["raw", "dwh", "mart", "staging"]],
    ).fetchall():
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    statements = {
        **{str(table): create_table(table) for table in TABLES},
        **{f"dwh.{one.table}": [create_aggregate(one)] for one in weblog_aggregates.TABLES},
        **staging_tables(),
    }
    missing = find_missing(connection, list(statements))
    for name in missing:
        for statement in statements[name]:
            connection.execute(statement.encode())
    if str(DATE) in missing:
        # Loads add further days to the calendar when facts need them.
        connection.execute(add_days(first_days(), 0))
    return missing


def ensure_mirror(
    connection: psycopg.Connection, table: Table, columns: Sequence[Column], comment: str | None
) -> bool:
    """Create the mirror if it is missing, without its primary key (see `add_key`). Returns whether it was missing."""
    if mirror_exists(connection, table):
        return False
    create_empty_mirror(connection, table, columns, comment)
    return True


def snapshot_key(snapshot: DailySnapshot) -> tuple[str, ...]:
    """Return the primary key of a daily snapshot."""
    return ("snapshot_date", *snapshot.natural_key, "source_system")


def published_tables() -> Mapping[str, tuple[str, ...]]:
    """Return the key by table, for all tables that are archived as published: dimensions, snapshots, references."""
    return {
        **{f"dwh.{one.table}": (one.key,) for one in DIMENSIONS},
        **{f"dwh.{one.table}": snapshot_key(one) for one in SNAPSHOTS},
        **{str(one): (one.columns[0].name,) for one in REFERENCE_TABLES},
    }


def full_name(table: str) -> str:
    """Return schema.table for a name such as `dwh explain` accepts: customer, dim_customer, shop_product."""
    if "." in table:
        return table
    if target := TARGETS_BY_NAME.get(table):
        return f"dwh.{target.table}"
    if table == "weblog":
        return str(weblog.FACT)
    in_star = f"dwh.{table}"
    return in_star if in_star in WEBLOG_TABLES | published_tables().keys() else f"raw.{table}"


def columns_of(connection: psycopg.Connection, schema: str, table: str) -> Mapping[str, str]:
    """Return the types of a table's columns by name, in the table's order."""
    return dict(
        connection.execute(
            """
            select attname::text, format_type(atttypid, atttypmod) from pg_attribute
            where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
            order by attnum
            """,
            [schema, table],
        ).fetchall()
    )


def continue_sequences(
    connection: psycopg.Connection, schema: str, table: str, column: str, last: int
) -> None:
    """Set the identity sequence of a column to continue after `last` and after every key in the table."""
    connection.execute(
        sql.SQL(
            """
            select setval(sequence, greatest({last}, (select max({column}) from {table}), last_value, 1))
            from pg_get_serial_sequence({name}, {column_name}) as sequence
            cross join lateral (
                select coalesce(pg_sequence_last_value(sequence::regclass), 0) as last_value
            ) as reached
            where sequence is not null
            """
        ).format(
            last=sql.Literal(last),
            column=sql.Identifier(column),
            table=sql.Identifier(schema, table),
            name=sql.Literal(f"{schema}.{table}"),
            column_name=sql.Literal(column),
        )
    )
