"""Lists of column names as SQL, quoted: what the engine's generated statements are made of."""

from collections.abc import Sequence

from psycopg import sql


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
