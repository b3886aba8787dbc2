"""Columns, types, keys and comments of tables, read from the catalogs of source and warehouse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from warehouse.db.connections import IS_MONEY_HELD_IN_CENTS, read_only_transaction
from warehouse.db.identifiers import to_paste
from warehouse.db.type_names import without_modifier
from warehouse.errors import DeclarationError, SourceError
from warehouse.extract.column import Column
from warehouse.extract.undecodable import with_policy
from warehouse.sources.source import Table

HOUSEKEEPING = {
    "_run_id": "Run that wrote this row last",
    "_is_deleted": "Whether the row is gone from the source",
}
# Columns beside the key in staging.<mirror>_delta, and the flags of staging.<source>_<entity>_changed_keys.
DELTA_COLUMNS = {"_operation": "text", "_has_updated_at": "boolean"}
# Types that arrive as themselves and have no B-tree operator class.
_UNORDERED = frozenset(
    ("box", "cid", "circle", "gtsvector", "json", "jsonpath", "line", "lseg", "path", "point", "polygon", "refcursor",
     "txid_snapshot", "xid")
)  # fmt: skip
KEY_FLAGS = ("_is_new", "_is_outdated", "_flags")


def source_columns(connection: psycopg.Connection, table: Table) -> tuple[Column, ...]:
    """Read the columns of a source table, in its order; types that the warehouse does not have are cast to text.

    Raises:
        DeclarationError: the declared key or cursor is not a column of it, or of a type without an order.
        SourceError: a column has a name that the warehouse reserves.
    """
    (columns,) = read_source_columns(connection, [table])
    return check_columns(connection, table, columns)


def read_source_columns(connection: psycopg.Connection, tables: Sequence[Table]) -> list[tuple[Column, ...]]:
    """Read the columns of several source tables from the source's catalog; `check_columns` validates them."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""
            with declared as (
                select
                    wanted.place,
                    attribute.*,
                    type.typtype = 'd' as is_domain,
                    case when type.typtype = 'd' then type.typbasetype else type.oid end as base_oid,
                    case when type.typtype = 'd' then type.typtypmod else attribute.atttypmod end as base_mod
                from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality as wanted (schema, name, place)
                join pg_attribute as attribute
                    on attribute.attrelid = to_regclass(format('%%I.%%I', wanted.schema, wanted.name))
                join pg_type as type on type.oid = attribute.atttypid
                where attribute.attnum > 0 and not attribute.attisdropped
            ),

            typed as (
                select
                    declared.*,
                    -- reg* types hold OIDs of the source's catalog: only their text means anything in the warehouse
                    base.typnamespace = 'pg_catalog'::regnamespace
                    and base.typtype in ('b', 'r', 'm')
                    and base.typname !~ '^_?(reg|aclitem|pg_|xml$)' as is_portable,
                    base.oid in ('money'::regtype, 'money[]'::regtype) and not {IS_MONEY_HELD_IN_CENTS}
                        as is_other_money
                from declared
                join pg_type as base on base.oid = declared.base_oid
            )

            select
                place,
                attname as name,
                case
                    when is_other_money then replace(format_type(base_oid, base_mod), 'money', 'numeric')
                    when is_portable then format_type(base_oid, base_mod)
                    else 'text'
                end as type,
                case
                    when is_other_money then replace(format_type(base_oid, base_mod), 'money', 'numeric')
                    when not is_portable then 'text'
                    when is_domain then format_type(base_oid, base_mod)
                end as cast,
                col_description(attrelid, attnum) as comment
            from typed
            order by place, attnum
            """,
            names_at_source(tables),
        ).fetchall()
    columns: list[list[Column]] = [[] for _ in tables]
    for row in rows:
        columns[row.pop("place") - 1].append(Column(**row))
    return [tuple(some) for some in columns]


def read_key_types(source: str, url: str, tables: Sequence[Table]) -> dict[Table, dict[str, str]]:
    """Read the types of the declared keys of source tables, by table and column. Tables without all columns of their
    key are skipped.

    Raises:
        ConnectionFailed, AccessRefused, UnsuitableDatabase: as `read_only_transaction`.
    """
    with read_only_transaction(source, url, application_name="dwh capture") as reader:
        types = [
            {column.name: column.type for column in columns}
            for columns in read_source_columns(reader, tables)
        ]
    return {
        table: {name: kinds[name] for name in table.key}
        for table, kinds in zip(tables, types, strict=True)
        if kinds.keys() >= {*table.key}
    }


def check_columns(
    connection: psycopg.Connection, table: Table, columns: tuple[Column, ...]
) -> tuple[Column, ...]:
    """Check a source table's columns, and apply its policy for undecodable texts; raises as `source_columns`."""
    kinds = {column.name: column.type for column in columns}
    names = kinds.keys()
    for name in (*table.key, *([table.cursor] if table.cursor else [])):
        if name not in names:
            raise DeclarationError(
                f"Source '{table.source}' declares column '{name}' of {table}, which does not exist.",
                hint=f"Its columns are: {', '.join(sorted(names))}.",
            )
        if without_modifier(kinds[name]).removesuffix("[]") in _UNORDERED:
            raise DeclarationError(
                f"Column '{name}' of {table} of source '{table.source}' can be neither key nor cursor: values of its "
                f"type {kinds[name]} have no order.",
                hint=f"Declare another one in the source.toml of '{table.source}'.",
            )
    for name in sorted((names & HOUSEKEEPING.keys()) | (set(table.key) & {*DELTA_COLUMNS, *KEY_FLAGS})):
        raise SourceError(
            f"Column '{name}' of {table} of source '{table.source}' has a name that the warehouse reserves.",
            hint="Rename it there.",
        )
    return with_policy(connection, table, columns, table.undecodable)


def table_comments(connection: psycopg.Connection, tables: Sequence[Table]) -> list[str | None]:
    """Read the comments on source tables."""
    return [
        comment
        for (comment,) in connection.execute(
            """
            select obj_description(to_regclass(format('%%I.%%I', schema, name)), 'pg_class')
            from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality as wanted (schema, name, place)
            order by place
            """,
            names_at_source(tables),
        ).fetchall()
    ]


def names_at_source(tables: Sequence[Table]) -> dict[str, list[str]]:
    """Return the query parameters `schemas` and `names` for several source tables."""
    return {
        "schemas": [table.at_source[0] for table in tables],
        "names": [table.at_source[1] for table in tables],
    }


def mirrored_columns(connection: psycopg.Connection, table: Table) -> dict[str, str]:
    """Types of the mirror's columns by name, without its housekeeping columns; empty where there is no mirror."""
    return columns_of(connection, "raw", table.mirror)


def find_missing(connection: psycopg.Connection, names: Sequence[str]) -> list[str]:
    """Return those of `names`, each as `schema.table`, for which no table exists."""
    rows = connection.execute(
        # %I quotes the name: to_regclass would fold its capitals to lower case and find another table.
        "select name from unnest(%s::text[]) with ordinality as declared (name, position) "
        "where to_regclass(format('%%I.%%I', split_part(name, '.', 1), split_part(name, '.', 2))) is null "
        "order by position",
        [list(names)],
    ).fetchall()
    return [name for (name,) in rows]


def mirror_exists(connection: psycopg.Connection, table: Table) -> bool:
    """Whether `table` has a mirror yet."""
    return bool(mirrored_columns(connection, table))


def columns_of(connection: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    """Types of a table's columns by name, in their order, without the mirror's housekeeping columns."""
    (columns,) = columns_of_each(connection, (schema, table))
    return columns


def columns_of_each(connection: psycopg.Connection, *tables: tuple[str, str]) -> list[dict[str, str]]:
    """Read the columns of several tables, each given as schema and name, as `columns_of` does for one."""
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


@dataclass(frozen=True)
class Mirror:
    """A mirror as it is in the warehouse's catalog before a run stages its table."""

    # Types by column; empty if there is no mirror.
    columns: Mapping[str, str]
    # Columns of its primary key; empty if it has none.
    key: tuple[str, ...]
    # The planner's estimate.
    rows: int

    @property
    def exists(self) -> bool:
        return bool(self.columns)


def read_mirrors(connection: psycopg.Connection, tables: Sequence[Table]) -> list[Mirror]:
    """Read the mirrors of source tables from the warehouse's catalog."""
    rows = connection.execute(
        """
        select
            array(
                select attname::text from pg_constraint
                cross join unnest(conkey) with ordinality as part (attnum, position)
                inner join pg_attribute on attrelid = conrelid and pg_attribute.attnum = part.attnum
                where conrelid = pg_class.oid and contype = 'p'
                order by part.position
            ),
            coalesce(greatest(reltuples, 0), 0)::bigint
        from unnest(%s::text[]) with ordinality as wanted (name, place)
        left join pg_class on pg_class.oid = to_regclass(format('raw.%%I', name))
        order by place
        """,
        [[table.mirror for table in tables]],
    ).fetchall()
    columns = columns_of_each(connection, *(("raw", table.mirror) for table in tables))
    return [Mirror(types, tuple(key), count) for types, (key, count) in zip(columns, rows, strict=True)]


def invalid_key(table: Table, problem: str) -> SourceError:
    """Error for a declared key that does not identify rows; `problem` is 'not unique' or 'null in some rows'."""
    inherited, relation = "", to_paste(*table.at_source)
    if problem == "not unique":
        key = to_paste(*table.key, separator=", ")
        query = f"select {key}, count(*) from {relation} group by {key} having count(*) > 1"
        inherited = " Rows of tables that inherit from it are its rows, too, and no unique index spans both."
    else:
        condition = " or ".join(f"{to_paste(column)} is null" for column in table.key)
        query = f"select * from {relation} where {condition}"
    return SourceError(
        f"The key ({', '.join(table.key)}) that source '{table.source}' declares for {table} is {problem}.",
        hint=f"The source shows the rows: {query}.{inherited} Correct them, or declare another key in the source.toml "
        f"of '{table.source}'.",
    )
