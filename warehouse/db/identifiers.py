"""SQL fragments of quoted column names, of which the generated statements of the engine are composed."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql


def each(template: str, names: Sequence[str], separator: str = ", ") -> sql.Composable:
    """`template` filled in with each name, as `{0} = excluded.{0}`; separated by commas or by `separator`."""
    return sql.SQL(separator).join(sql.SQL(template).format(sql.Identifier(name)) for name in names)


def listed(names: Sequence[str]) -> sql.Composable:
    """`a, b`."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def qualified(table: str, names: Sequence[str]) -> sql.Composable:
    """`table.a, table.b`."""
    return sql.SQL(", ").join(sql.Identifier(table, name) for name in names)


def same_key(key: Sequence[str], left: str, right: str) -> sql.Composable:
    """`left.key = right.key`, column by column."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )


def assigned(names: Sequence[str], table: str) -> sql.Composable:
    """`a = table.a, b = table.b`."""
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier(table, name)) for name in names
    )


def differ(names: Sequence[str], left: str, right: str) -> sql.Composable:
    """Whether any of the columns differs between the two tables, null being a value like any other."""
    if not names:
        return sql.SQL("false")
    return sql.SQL("row({}) is distinct from row({})").format(qualified(left, names), qualified(right, names))


def text_array(names: Sequence[str], table: str) -> sql.Composable:
    """`array[table.a, table.b]::text[]`: a row's natural key, as the audit trail has it."""
    return sql.SQL("array[{}]::text[]").format(qualified(table, names))


def definitions(types: Mapping[str, str]) -> sql.Composable:
    """`a integer, b text`, for `create table`."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in types.items()
    )


def cast_to(types: Mapping[str, str]) -> sql.Composable:
    """`a::integer as a, b::text as b`."""
    return sql.SQL(", ").join(
        sql.SQL("{0}::{1} as {0}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in types.items()
    )


def to_paste(connection: psycopg.Connection, *names: str, separator: str = ".") -> str:
    """`a."B c"`: names for a statement in a message to the user, quoted only where they must be."""
    row = connection.execute(
        """
        select string_agg(quote_ident(name), %s order by place)
        from unnest(%s::text[]) with ordinality as _ (name, place)
        """,
        [separator, list(names)],
    ).fetchone()
    assert row is not None
    return str(row[0])
