"""SQL fragments of quoted column names, of which the generated statements of the engine are composed."""

import re
from collections.abc import Mapping, Sequence

from psycopg import sql

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Keywords that cannot be a table's name without quotes: those that pg_get_keywords() lists as reserved, even in part.
_RESERVED = re.compile(
    "all|analyse|analyze|and|any|array|as|asc|asymmetric|authorization|binary|both|case|cast|check|collate|collation|"
    "column|concurrently|constraint|create|cross|current_catalog|current_date|current_role|current_schema|"
    "current_time|current_timestamp|current_user|default|deferrable|desc|distinct|do|else|end|except|false|fetch|for|"
    "foreign|freeze|from|full|grant|group|having|ilike|in|initially|inner|intersect|into|is|isnull|join|lateral|"
    "leading|left|like|limit|localtime|localtimestamp|natural|not|notnull|null|offset|on|only|or|order|outer|"
    "overlaps|placing|primary|references|returning|right|select|session_user|similar|some|symmetric|system_user|"
    "table|tablesample|then|to|trailing|true|union|unique|user|using|variadic|verbose|when|where|window|with"
)


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


def same_row_key(key: Sequence[str], table: str, entry: str) -> sql.Composable:
    """`table.key = entry.row_key[1]`, column by column: the row's natural key, as the audit trail has it."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}[{}]").format(
            sql.Identifier(table, name), sql.Identifier(entry, "row_key"), sql.Literal(place)
        )
        for place, name in enumerate(key, start=1)
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


def to_paste(*names: str, separator: str = ".") -> str:
    """`a."B c"`: names for a statement in a message to the user, quoted only where they must be."""
    return separator.join(
        name if _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name) else quoted(name) for name in names
    )


def quoted(name: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'
