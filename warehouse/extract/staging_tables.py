"""Staging tables of a source table: its batch, the keys that were deleted from the source, and what changed."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import definitions
from warehouse.extract.catalog import DELTA_COLUMNS, columns_of, columns_of_each
from warehouse.extract.column import Column
from warehouse.sources.source import Table


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
    """Temporary table of the mirror's rows before a run updates them; it does not exist if they are not known."""
    return sql.Identifier("pg_temp", before_name(table))


def before_name(table: Table) -> str:
    """Name of the table that `before_table` identifies."""
    return f"before_{table.mirror}"


def batch_exists(connection: psycopg.Connection, table: Table) -> bool:
    """Whether the batch of `table` is still in staging; a first batch is moved to be the mirror."""
    return bool(columns_of(connection, "staging", table.mirror))


def create_staging(connection: psycopg.Connection, tables: Mapping[Table, Sequence[Column]]) -> None:
    """Create or empty the staging tables of `tables`, which have these columns, for one run.

    A first batch is a logged table, since it becomes the mirror and has to survive a crash of the server.
    """
    names = [name for table in tables for name in _names(table)]
    existing = columns_of_each(
        connection, *(("raw", table.mirror) for table in tables), *(("staging", name) for name in names)
    )
    mirrored, present = existing[: len(tables)], dict(zip(names, existing[len(tables) :], strict=True))
    fitting = []
    for (table, columns), mirror in zip(tables.items(), mirrored, strict=True):
        by_name = {column.name: column for column in columns}
        key = [by_name[name] for name in table.key]
        flags = [Column(name, kind, None, None) for name, kind in DELTA_COLUMNS.items()]
        # No constraint on the batch: the error of a failed COPY could not name the wrong declared key.
        for name, members in zip(_names(table), (columns, key, [*key, *flags]), strict=True):
            relation = sql.Identifier("staging", name)
            types = {column.name: column.type for column in members}
            becomes_mirror = not mirror and name == table.mirror
            if not becomes_mirror and present[name] == types:
                fitting.append(relation)
                continue
            connection.execute(
                sql.SQL("drop table if exists {name}; create {unlogged} table {name} ({columns})").format(
                    name=relation,
                    unlogged=sql.SQL("" if becomes_mirror else "unlogged"),
                    columns=definitions(types),
                )
            )
            comment_on(
                connection,
                relation,
                {column.name: column_comment(column, table) for column in members},
                f"Staging of {table} of source {table.source}.",
            )
    # Tables that are empty already are skipped, since TRUNCATE creates new files.
    filled = connection.execute(
        """
        select place from unnest(%s::regclass[]) with ordinality as fitting (name, place)
        where pg_relation_size(name) > 0
        """,
        [[relation.as_string(connection) for relation in fitting]],
    ).fetchall()
    if filled:
        # Not DELETE, after which space is reused: the order of ctids shows which version of a record came later.
        connection.execute(
            sql.SQL("truncate {}").format(sql.SQL(", ").join(fitting[place - 1] for (place,) in filled))
        )


def _names(table: Table) -> tuple[str, str, str]:
    """Names of the staging tables: batch, deleted keys, delta."""
    return table.mirror, f"{table.mirror}_deleted", f"{table.mirror}_delta"


def empty_staging(connection: psycopg.Connection, *tables: Table) -> None:
    """Empty the staging tables of `tables`, which must exist, for the next batch."""
    if tables:
        places = [name(table) for table in tables for name in (batch_table, deleted_table, delta_table)]
        staying_session.empty(connection, *places)


def column_comment(column: Column, table: Table) -> str:
    """Comment of the source's column, or one that names it."""
    return column.comment or f"Column {column.name} of {table}."


def comment_on(
    connection: psycopg.Connection,
    table: sql.Identifier,
    columns: Mapping[str, str],
    text: str | None = None,
) -> None:
    """Comment on columns of a table, and on the table."""
    comments = [
        sql.SQL("comment on column {}.{} is {}").format(table, sql.Identifier(name), sql.Literal(comment))
        for name, comment in columns.items()
    ]
    if text is not None:
        comments.append(sql.SQL("comment on table {} is {}").format(table, sql.Literal(text)))
    if comments:
        connection.execute(sql.SQL("; ").join(comments))
