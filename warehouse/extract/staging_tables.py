"""Staging tables of a source table: its batch, the keys that were deleted from the source, and what changed."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import definitions
from warehouse.extract.catalog import DELTA_COLUMNS, columns_of, mirror_exists
from warehouse.extract.column import Column
from warehouse.sources.declaration import Table


def batch_table(table: Table) -> sql.Identifier:
    """Table of the rows that a run copied from the source."""
    return sql.Identifier("staging", table.mirror)


def deleted_table(table: Table) -> sql.Identifier:
    """Table of the keys that the source no longer has."""
    return sql.Identifier("staging", f"{table.mirror}_deleted")


def delta_table(table: Table) -> sql.Identifier:
    """Table of the keys whose mirror row a run inserted, updated or marked as deleted."""
    return sql.Identifier("staging", f"{table.mirror}_delta")


def before_table(table: Table) -> sql.Identifier:
    """Temporary table of the mirror's rows that a run updates, as they were before; missing where nobody knows."""
    return sql.Identifier("pg_temp", before_name(table))


def before_name(table: Table) -> str:
    """Name of that table."""
    return f"before_{table.mirror}"


def batch_exists(connection: psycopg.Connection, table: Table) -> bool:
    """Whether the batch of `table` is still in staging: a first batch has become the mirror."""
    return bool(columns_of(connection, "staging", table.mirror))


def create_staging(connection: psycopg.Connection, table: Table, columns: Sequence[Column]) -> None:
    """Create or empty the staging tables of `table` for one run.

    The first batch is a logged table, since it becomes the mirror and has to survive a crash of the server.
    """
    is_first = not mirror_exists(connection, table)
    by_name = {column.name: column for column in columns}
    key = [by_name[name] for name in table.key]
    flags = [Column(name, kind, None, None) for name, kind in DELTA_COLUMNS.items()]
    # No constraint on the batch: a COPY that fails could not say which declared key is wrong.
    for suffix, members in (("", columns), ("_deleted", key), ("_delta", [*key, *flags])):
        name = sql.Identifier("staging", table.mirror + suffix)
        types = {column.name: column.type for column in members}
        becomes_mirror = is_first and not suffix
        if not becomes_mirror and columns_of(connection, "staging", table.mirror + suffix) == types:
            connection.execute(sql.SQL("truncate {}").format(name))
            continue
        connection.execute(sql.SQL("drop table if exists {}").format(name))
        connection.execute(
            sql.SQL("create {} table {} ({})").format(
                sql.SQL("" if becomes_mirror else "unlogged"), name, definitions(types)
            )
        )
        comment_on(
            connection, sql.SQL("table {}").format(name), f"Staging of {table} of source {table.source}."
        )
        for column in members:
            comment_on_column(connection, name, column.name, column_comment(column, table))


def empty_staging(connection: psycopg.Connection, *tables: Table) -> None:
    """Empty the staging tables of `tables` for the next batch; they are there."""
    if tables:
        places = [name(table) for table in tables for name in (batch_table, deleted_table, delta_table)]
        staying_session.empty(connection, *places)


def column_comment(column: Column, table: Table) -> str:
    """Comment of the source's column, or one that names it."""
    return column.comment or f"Column {column.name} of {table}."


def comment_on(connection: psycopg.Connection, what: sql.Composable, text: str) -> None:
    """Comment on a table or column."""
    connection.execute(sql.SQL("comment on {} is {}").format(what, sql.Literal(text)))


def comment_on_column(connection: psycopg.Connection, table: sql.Identifier, name: str, text: str) -> None:
    """Comment on one column of `table`."""
    comment_on(connection, sql.SQL("column {}.{}").format(table, sql.Identifier(name)), text)
