"""Composite keys: a source's key of several columns as one text, as `7/1042`, by SQL functions for conform SQL and BI.

Parts are separated by '/'; within a part, '%' and '/' are percent-encoded, so that no two keys have the same text.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from psycopg import sql

from warehouse.db.object_files import SchemaObject

SEPARATOR: Final = "/"
# Null if a part is null. Stable, as the conversion of arrays is, so that the planner can inline it.
FUNCTIONS: Final = (
    SchemaObject(
        "function",
        "mart",
        "composite_key",
        """(variadic parts text[]) returns text language sql stable parallel safe return
        case when array_position(parts, null) is null
            then array_to_string(replace(replace(parts::text, '%', '%25'), '/', '%2F')::text[], '/') end""",
    ),
    SchemaObject(
        "function",
        "mart",
        "key_part",
        """(key text, part integer) returns text language sql immutable parallel safe return
        replace(replace(split_part(key, '/', part), '%2F', '/'), '%25', '%')""",
    ),
)


def composite_key(parts: Sequence[sql.Composable]) -> sql.Composable:
    """The composite key of these texts; a single text is a key as it is."""
    if len(parts) == 1:
        return parts[0]
    return sql.SQL("mart.composite_key({})").format(sql.SQL(", ").join(parts))


def key_part(key: sql.Composable, position: int, parts: int) -> sql.Composable:
    """One of the `parts` of a composite key, the first being 1; a single one is the key as it is."""
    if parts == 1:
        return key
    return sql.SQL("mart.key_part({}, {})").format(key, sql.Literal(position))


def split(key: str, parts: int) -> list[str]:
    """Split a composite key into its parts; the result has another length if it is no key of `parts` parts."""
    return [key] if parts == 1 else [unquote(part) for part in key.split(SEPARATOR)]
