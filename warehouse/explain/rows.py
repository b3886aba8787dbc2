"""Look up rows by a key that a user typed, in tables with any columns."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

MOST_SUGGESTED = 5


def find_rows(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    key: Mapping[str, str],
    *,
    order: str | None = None,
) -> list[dict[str, str | None]]:
    """Find rows by the columns in `key`, with every value as its text; empty if a value is invalid for its type."""
    types = column_types(connection, schema, table)
    if not types or not key.keys() <= types.keys():
        return []
    try:
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                sql.SQL("select {columns} from {table} where {same}{order}").format(
                    columns=sql.SQL(", ").join(
                        sql.SQL("{0}::text as {0}").format(sql.Identifier(name)) for name in types
                    ),
                    table=sql.Identifier(schema, table),
                    # Cast the value, not the column, so that an index can be used.
                    same=sql.SQL(" and ").join(
                        sql.SQL("{} = {}::{}").format(
                            sql.Identifier(table, name), sql.Literal(value), sql.SQL(types[name])
                        )
                        for name, value in key.items()
                    ),
                    order=sql.SQL(" order by {}").format(sql.Identifier(table, order))
                    if order
                    else sql.SQL(""),
                )
            ).fetchall()
    except psycopg.DataError:
        return []


def column_types(connection: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    """Types of a table's columns, by name, in its order."""
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
        order by attnum
        """,
        [schema, table],
    ).fetchall()
    return dict(rows)


def similar_keys(
    connection: psycopg.Connection, schema: str, table: str, key: Sequence[str], given: Sequence[str]
) -> list[str]:
    """Suggest keys of a table that the user may have meant: those that begin like it, else the first ones."""
    types = column_types(connection, schema, table)
    if not set(key) <= types.keys():
        return []
    rows = connection.execute(
        sql.SQL(
            """
            select array[{key}] from {table}
            where {first} <> ''
            group by {key}
            order by lower({first}) <> lower(trim({given})), not starts_with(lower({first}), lower(trim({given}))),
                not starts_with({first}, left(trim({given}), 2)), length({first}), {first}
            limit {limit}
            """
        ).format(
            key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in key),
            first=sql.SQL("{}::text").format(sql.Identifier(key[0])),
            given=sql.Literal(given[0] if given else ""),
            table=sql.Identifier(schema, table),
            limit=sql.Literal(MOST_SUGGESTED),
        )
    ).fetchall()
    return [" ".join(part or "''" for part in row[0]) for row in rows]
