"""Comments of schemas, tables, views, functions and columns: declared in files, set wherever they differ."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

FOLDER = Path(__file__).parent / "comments"

# By name: `schema`, `schema.table`, `schema.table.column`, `schema.function()`.
Comments = Mapping[str, str]


def read_comments(*paths: Path) -> dict[str, str]:
    """Comments from TOML: `[schema.table]` with `comment` and a table `columns`; `[schema."function()"]`."""
    comments = {}
    for path in paths:
        for schema, objects in tomllib.loads(path.read_text()).items():
            if text := objects.pop("comment", None):
                comments[schema] = text
            for name, entry in objects.items():
                comments |= _of_object(f"{schema}.{name}", entry)
    return comments


def differing_comments(connection: psycopg.Connection, comments: Comments) -> dict[str, str]:
    """Find the existing objects whose comment differs from the declared one; returns their kinds by name."""
    return {
        name: kind
        for name, kind, comment in connection.execute(_EXISTING).fetchall()
        if name in comments and comment != comments[name]
    }


def apply_comments(connection: psycopg.Connection, comments: Comments) -> None:
    """Set the comments that differ from what is declared."""
    for name, kind in differing_comments(connection, comments).items():
        connection.execute(
            sql.SQL("comment on {} {} is {}").format(
                sql.SQL(kind),
                sql.SQL(".").join(map(sql.Identifier, name.removesuffix("()").split("."))),
                sql.Literal(comments[name]),
            )
        )


def _of_object(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    columns = entry.get("columns", {})
    return {name: entry["comment"]} | {f"{name}.{column}": text for column, text in columns.items()}


_EXISTING = """
    select nspname, 'schema', obj_description(oid, 'pg_namespace') from pg_namespace
    union all
    select
        format('%s.%s', namespace.nspname, relation.relname),
        case relation.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end,
        obj_description(relation.oid, 'pg_class')
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    where relation.relkind in ('r', 'p', 'v', 'm')
    union all
    select
        format('%s.%s.%s', namespace.nspname, relation.relname, attribute.attname),
        'column',
        col_description(relation.oid, attribute.attnum)
    from pg_attribute as attribute
    inner join pg_class as relation on attribute.attrelid = relation.oid
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    where relation.relkind in ('r', 'p', 'v', 'm') and attribute.attnum > 0 and not attribute.attisdropped
        and namespace.nspname not in ('pg_catalog', 'information_schema')
    union all
    select format('%s.%s()', namespace.nspname, proc.proname), 'function', obj_description(proc.oid, 'pg_proc')
    from pg_proc as proc
    inner join pg_namespace as namespace on proc.pronamespace = namespace.oid
    where namespace.nspname not in ('pg_catalog', 'information_schema')
"""
