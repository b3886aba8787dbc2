"""Tables of the warehouse as they are declared: which are missing, and how they are created."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from warehouse.db.identifiers import definitions, listed
from warehouse.db.roles import OWNER
from warehouse.extract.catalog import HOUSEKEEPING
from warehouse.extract.staging_tables import comment_on, comment_on_column
from warehouse.history.change_log import create_triggers
from warehouse.model.schema import TABLES, create_table
from warehouse.rebuild.archived_state import CapturedTable


def missing_tables(connection: psycopg.Connection) -> list[str]:
    """Declared tables of the warehouse that do not exist, as `schema.table`."""
    rows = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(name) is null",
        [[str(table) for table in TABLES]],
    ).fetchall()
    return [name for (name,) in rows]


def create_missing(connection: psycopg.Connection) -> list[str]:
    """Create the schemas and declared tables that are missing; returns the tables' names.

    Their views, functions, triggers, comments and grants follow by `warehouse.migrations.apply_declared`.
    """
    for schema in ("raw", "dwh", "mart", "staging"):
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    missing = missing_tables(connection)
    for table in TABLES:
        if str(table) in missing:
            for statement in create_table(table):
                connection.execute(statement.encode())
    return missing


def ensure_mirror(connection: psycopg.Connection, table: CapturedTable) -> bool:
    """Create a mirror that is missing, with the columns of the last archived batch. Returns whether it was."""
    mirror = sql.Identifier("raw", table.mirror)
    if connection.execute("select to_regclass(%s)", [mirror.as_string(connection)]).fetchone() != (None,):
        return False
    connection.execute(
        sql.SQL(
            "create table {} ({}, _run_id bigint not null, _is_deleted boolean not null default false, "
            "constraint {} primary key ({}))"
        ).format(
            mirror,
            definitions(dict(table.columns)),
            sql.Identifier(f"pk_{table.mirror}"),
            listed(table.key),
        )
    )
    text = table.comment or f"Table {table.name} of source {table.source}."
    comment_on(connection, sql.SQL("table {}").format(mirror), f"Mirror. {text}")
    for name in table.columns:
        comment_on_column(connection, mirror, name, f"Column {name} of {table.name}")
    for name, comment in HOUSEKEEPING.items():
        comment_on_column(connection, mirror, name, comment)
    create_triggers(connection, "raw", table.mirror)
    connection.execute(sql.SQL("grant select on {} to {}").format(mirror, sql.Identifier(OWNER)))
    return True


def columns_of(connection: psycopg.Connection, schema: str, table: str) -> Mapping[str, str]:
    """Types of a table's columns by name, in order."""
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
    """Let the identity of a column go on after `last`, and after every key in the table."""
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
