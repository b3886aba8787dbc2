"""How a large source table can be read without a scan: by the index of its cursor, and by key ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.db.type_names import without_modifier
from warehouse.extract.catalog import names_at_source
from warehouse.extract.column import Column
from warehouse.extract.cursor_window import is_moment
from warehouse.extract.key_order import KeyOrder, KeyPart
from warehouse.sources.source import Table

# Types whose values have the same order on every server.
ORDERED = frozenset(
    (
        "smallint", "integer", "bigint", "numeric", "uuid", "date", "bytea",
        "timestamp without time zone", "timestamp with time zone",
    )
)  # fmt: skip
# Texts have the same order on every server only in collation C; in another one the same bounds hold other rows.
TEXTS = frozenset(("text", "character varying"))


@dataclass(frozen=True)
class AccessPaths:
    """Indexes of a source table that a run can use."""

    # True if the cursor is a date or time and the first column of an index: changed rows are read by that index.
    has_cursor_index: bool
    # Order of the keys that indexes of source and mirror share; None if there is none.
    key_order: KeyOrder | None


NO_PATHS = AccessPaths(False, None)


def read_access_paths(
    reader: psycopg.Connection, writer: psycopg.Connection, columns: Mapping[Table, Sequence[Column]]
) -> dict[Table, AccessPaths]:
    """Find in the source's catalog the indexes by which parts of each table can be read; `columns` are by table."""
    if not columns:
        return {}
    tables = list(columns)
    indexes: dict[Table, list[_Index]] = {table: [] for table in tables}
    for place, *index in reader.execute(_INDEXES, names_at_source(tables)).fetchall():
        indexes[tables[place - 1]].append(_Index(*index))
    is_c = has_c_order(writer)
    return {table: _access_paths(reader, table, columns[table], indexes[table], is_c) for table in tables}


@dataclass(frozen=True)
class _Index:
    """An index; per column: name, collation with 'true' if it sorts by code point, and if a range scan can use it."""

    names: Sequence[str]
    collations: Sequence[tuple[str | None, str]]
    are_usable: Sequence[bool]


def _access_paths(
    reader: psycopg.Connection, table: Table, columns: Sequence[Column], indexes: Sequence[_Index], is_c: bool
) -> AccessPaths:
    """Choose the access paths of a table among its indexes; `is_c`: the warehouse sorts texts by code point."""
    by_name = {column.name: column for column in columns}
    has_cursor_index = (
        table.cursor is not None
        and is_moment(by_name[table.cursor].type)
        and by_name[table.cursor].cast is None
        and any(index.names[0] == table.cursor for index in indexes)
    )
    key = [by_name[name] for name in table.key]
    size = len(key)
    for index in indexes:
        collations = index.collations[:size]
        if tuple(index.names[:size]) != table.key or not all(index.are_usable[:size]):
            continue
        if all(
            _is_ordered(reader, column, is_by_code_point == "true")
            for column, (_, is_by_code_point) in zip(key, collations, strict=True)
        ):
            parts = [
                KeyPart(
                    column.name,
                    column.type,
                    # An index serves only comparisons in its own collation, which need not be the column's.
                    source_collation=collation,
                    mirror_collation=None if is_c or collation is None else "C",
                )
                for column, (collation, _) in zip(key, collations, strict=True)
            ]
            return AccessPaths(has_cursor_index, KeyOrder(tuple(parts)))
    return AccessPaths(has_cursor_index, None)


def has_c_order(connection: psycopg.Connection) -> bool:
    """Whether the default collation of a database orders texts by their code points."""
    return (
        connection.execute(
            sql.SQL("select from pg_database where datname = current_database() and {}").format(
                sql.SQL(_DATABASE_IS_C)
            )
        ).rowcount
        == 1
    )


def _is_ordered(reader: psycopg.Connection, column: Column, is_by_code_point: bool) -> bool:
    if column.cast is not None or column.decoded is not None:
        return False
    kind = without_modifier(column.type)
    if kind in TEXTS:
        # In another encoding the same characters have other code points, so they sort differently.
        return is_by_code_point and reader.info.parameter_status("server_encoding") == "UTF8"
    return kind in ORDERED


# All collations of the builtin provider (b) sort by code point. to_jsonb, since PostgreSQL 14 has no datlocprovider.
_DATABASE_IS_C = """
    case coalesce(to_jsonb(pg_database) ->> 'datlocprovider', 'c')
        when 'c' then datcollate in ('C', 'POSIX')
        else to_jsonb(pg_database) ->> 'datlocprovider' = 'b'
    end
"""

# Columns of each B-tree index that covers all rows; per column, its collation, whether that sorts by code point, and
# whether it ascends and has no NULL, which no range would contain. Tables with inheritance children are skipped: their
# indexes do not cover the children's rows. Indexes of a partitioned table cover its partitions.
_INDEXES = f"""
    select
        wanted.place,
        array_agg(attribute.attname::text order by part.position),
        array_agg(array[ordering.collname::text, case
            when ordering.collname is null or ordering.collnamespace <> 'pg_catalog'::regnamespace then 'false'
            when ordering.collname = 'default' then (
                select {_DATABASE_IS_C} from pg_database where datname = current_database()
            )::text
            when ordering.collprovider = 'b' then 'true'
            else (ordering.collprovider = 'c' and ordering.collcollate in ('C', 'POSIX'))::text
        end] order by part.position),
        array_agg(part.option = 0 and attribute.attnotnull and not exists (
            -- Rows older than a constraint that is not validated may be null.
            select from pg_constraint
            where conrelid = index.indrelid and contype = 'n' and not convalidated and conkey = array[part.attnum]
        ) order by part.position)
    from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality as wanted (schema, name, place)
    inner join pg_class as relation on relation.oid = to_regclass(format('%%I.%%I', wanted.schema, wanted.name))
    inner join pg_index as index on index.indrelid = relation.oid
    inner join pg_class as tree on tree.oid = index.indexrelid
    inner join pg_am as method on method.oid = tree.relam and method.amname = 'btree'
    cross join lateral unnest(
        index.indkey::int2[], index.indoption::int2[], index.indclass::oid[], index.indcollation::oid[]
    ) with ordinality as part (attnum, option, class_oid, collation_oid, position)
    left join pg_attribute as attribute
        on attribute.attrelid = index.indrelid and attribute.attnum = part.attnum and part.attnum > 0
    left join pg_collation as ordering on ordering.oid = part.collation_oid
    left join pg_opclass as operators on operators.oid = part.class_oid
    where index.indisvalid and index.indpred is null and part.position <= index.indnkeyatts
        and not (relation.relkind = 'r' and exists (select from pg_inherits where inhparent = relation.oid))
    group by wanted.place, index.indexrelid
    having bool_and(attribute.attname is not null and operators.opcdefault)
    order by wanted.place, index.indexrelid
    """
