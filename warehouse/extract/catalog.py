"""Columns, types, keys and comments of tables, read from the catalogs of source and warehouse."""

import psycopg
from psycopg.rows import class_row

from warehouse.errors import DeclarationError, SourceError
from warehouse.extract.column import Column
from warehouse.extract.undecodable import with_policy
from warehouse.sources.declaration import Table

HOUSEKEEPING = {
    "_run_id": "Run that wrote this row last",
    "_is_deleted": "Whether the row is gone from the source",
}
# Columns beside the key in staging.<mirror>_delta, and the flags of staging.<source>_<entity>_changed_keys.
DELTA_COLUMNS = {"_operation": "text", "_has_updated_at": "boolean"}
KEY_FLAGS = ("_is_new", "_is_outdated", "_flags")


def source_columns(connection: psycopg.Connection, table: Table) -> tuple[Column, ...]:
    """Read the columns of a source table, in its order; types that the warehouse cannot have are cast to text.

    Raises:
        DeclarationError: the declared key or cursor is not a column of it.
        SourceError: a column has a name that the warehouse reserves.
    """
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        columns = tuple(
            cursor.execute(
                """
                with declared as (
                    select
                        attribute.*,
                        type.typtype = 'd' as is_domain,
                        case when type.typtype = 'd' then type.typbasetype else type.oid end as base_oid,
                        case when type.typtype = 'd' then type.typtypmod else attribute.atttypmod end as base_mod
                    from pg_attribute as attribute
                    join pg_type as type on type.oid = attribute.atttypid
                    where attribute.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
                        and attribute.attnum > 0 and not attribute.attisdropped
                ),

                typed as (
                    select
                        declared.*,
                        -- reg* types are numbers of another database's catalog: only their text means anything here
                        base.typnamespace = 'pg_catalog'::regnamespace
                        and base.typtype in ('b', 'r', 'm')
                        and base.typname !~ '^_?(reg|aclitem|pg_|xml$)' as is_portable
                    from declared
                    join pg_type as base on base.oid = declared.base_oid
                )

                select
                    attname as name,
                    case when is_portable then format_type(base_oid, base_mod) else 'text' end as type,
                    case
                        when not is_portable then 'text'
                        when is_domain then format_type(base_oid, base_mod)
                    end as cast,
                    col_description(attrelid, attnum) as comment
                from typed
                order by attnum
                """,
                table.at_source,
            ).fetchall()
        )
    names = {column.name for column in columns}
    for name in (*table.key, *([table.cursor] if table.cursor else [])):
        if name not in names:
            raise DeclarationError(
                f"Source '{table.source}' declares column '{name}' of {table}, which does not exist.",
                hint=f"Its columns are: {', '.join(sorted(names))}.",
            )
    for name in sorted((names & HOUSEKEEPING.keys()) | (set(table.key) & {*DELTA_COLUMNS, *KEY_FLAGS})):
        raise SourceError(
            f"Column '{name}' of {table} of source '{table.source}' has a name that the warehouse reserves.",
            hint="Rename it there.",
        )
    return with_policy(connection, table, columns, table.undecodable)


def table_comment(connection: psycopg.Connection, table: Table) -> str | None:
    """Read the comment on a source table."""
    row = connection.execute(
        "select obj_description(to_regclass(format('%%I.%%I', %s::text, %s::text)), 'pg_class')",
        table.at_source,
    ).fetchone()
    return row[0] if row else None


def mirrored_columns(connection: psycopg.Connection, table: Table) -> dict[str, str]:
    """Types of the mirror's columns by name, without its housekeeping columns; empty where there is no mirror."""
    return columns_of(connection, "raw", table.mirror)


def mirror_exists(connection: psycopg.Connection, table: Table) -> bool:
    """Whether `table` has a mirror yet."""
    return bool(mirrored_columns(connection, table))


def columns_of(connection: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    """Types of a table's columns by name, in their order, without the mirror's housekeeping columns."""
    (columns,) = columns_of_each(connection, (schema, table))
    return columns


def columns_of_each(connection: psycopg.Connection, *tables: tuple[str, str]) -> list[dict[str, str]]:
    """The same of each of these tables, given as schema and name."""
    rows = connection.execute(
        """
        select place, attname, format_type(atttypid, atttypmod)
        from unnest(%s::text[], %s::text[]) with ordinality as wanted (schema, name, place)
        inner join pg_attribute on attrelid = to_regclass(format('%%I.%%I', schema, name))
        where attnum > 0 and not attisdropped
        order by place, attnum
        """,
        [[schema for schema, _ in tables], [name for _, name in tables]],
    ).fetchall()
    columns: list[dict[str, str]] = [{} for _ in tables]
    for place, name, kind in rows:
        if name not in HOUSEKEEPING:
            columns[place - 1][name] = kind
    return columns


def mirror_key(connection: psycopg.Connection, table: Table) -> tuple[str, ...]:
    """Columns of the mirror's primary key; empty where there is none."""
    rows = connection.execute(
        """
        select attname from pg_constraint
        cross join unnest(conkey) with ordinality as part (attnum, position)
        inner join pg_attribute on attrelid = conrelid and pg_attribute.attnum = part.attnum
        where conrelid = to_regclass(format('raw.%%I', %s::text)) and contype = 'p'
        order by part.position
        """,
        [table.mirror],
    ).fetchall()
    return tuple(name for (name,) in rows)


def invalid_key(table: Table, problem: str) -> SourceError:
    """Error for a declared key that does not identify rows; `problem` is 'not unique' or 'null in some rows'."""
    key = ", ".join(table.key)
    inherited = ""
    if problem == "not unique":
        query = f"select {key}, count(*) from {table} group by {key} having count(*) > 1"
        inherited = " Rows of tables that inherit from it are its rows, too, and no unique index spans both."
    else:
        query = f"select * from {table} where {' or '.join(f'{column} is null' for column in table.key)}"
    return SourceError(
        f"The key ({key}) that source '{table.source}' declares for {table} is {problem}.",
        hint=f"The source shows the rows: {query}.{inherited} Correct them, or declare another key in the source.toml "
        f"of '{table.source}'.",
    )
