"""Read a source database's tables and views from its catalog: keys, sizes, columns and foreign keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from warehouse.db.type_names import without_modifier

# Usual names of update timestamps, in order of preference, in lower case without underscores (updatedAt, updated_at).
CURSORS = (
    "updatedat", "modifiedat", "changedat", "lastupdate", "lastupdated", "lastupdatedat", "lastmodified",
    "lastmodifiedat", "lastmodifieddate", "lastchanged", "modifieddate", "updateddate", "datemodified", "dateupdated",
    "updatedon", "modifiedon", "changedon", "writedate", "updated", "modified",
)  # fmt: skip
TIMESTAMPS = ("timestamp with time zone", "timestamp without time zone")


@dataclass(frozen=True)
class LiveTable:
    """A table or view of a database."""

    schema: str
    name: str
    # table, view, materialized view or foreign table
    kind: str
    # The planner's estimate.
    rows: int
    size: str
    # The primary key, else the shortest unique index over not-null columns; empty if there is none.
    key: Sequence[str]
    # Types by column, in the table's order.
    types: Mapping[str, str]
    # Foreign keys: columns; schema, name and columns of the referenced table.
    references: Sequence[tuple[Sequence[str], str, str, Sequence[str]]]
    # Tables that it inherits from, which show its rows, too.
    inherits: Sequence[str] = ()

    @property
    def is_table(self) -> bool:
        """Whether the xmin of its rows shows which have changed, unlike that of views and foreign tables."""
        return self.kind == "table"

    @property
    def guessed_key(self) -> Sequence[str]:
        """Its key; without one, a column whose name looks like a key, as id, or customer_id in v_customers."""
        if self.key:
            return self.key
        words = re.sub(r"^(v|vw|mv|view)_|_(v|vw|mv|view)$", "", self.name.lower())
        names = ("id", f"{words}_id", f"{words.removesuffix('s')}_id", f"{words.removesuffix('ies')}y_id")
        lower = {column.lower(): column for column in self.types}
        return [lower[name] for name in names if name in lower][:1]

    @property
    def cursor(self) -> str | None:
        """A timestamp column whose name looks like the time of a row's last change, if there is one."""
        times = {
            name.lower().replace("_", ""): name
            for name, kind in self.types.items()
            if without_modifier(kind) in TIMESTAMPS
        }
        return next((times[one] for one in CURSORS if one in times), None)


def read_live_tables(connection: psycopg.Connection, schemas: Sequence[str] = ()) -> list[LiveTable]:
    """Read the tables and views of `schemas`, or of all schemas, except those of extensions."""
    with connection.cursor(row_factory=class_row(LiveTable)) as cursor:
        return cursor.execute(_TABLES, {"schemas": list(schemas)}).fetchall()


_TABLES = """
    select
        nspname::text as schema,
        relname::text as name,
        case relkind
            when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' else 'table'
        end as kind,
        parts.rows,
        pg_size_pretty(parts.bytes) as size,
        coalesce(
            (
                select array_agg(attname::text order by part.position)
                from (
                    select indrelid, indkey, indnkeyatts from pg_index
                    where indrelid = relation.oid and indisunique and indisvalid and indpred is null
                        and indexprs is null and not exists (
                            select from pg_attribute
                            -- INCLUDE columns are not part of the key
                            where attrelid = indrelid and attnum = any((indkey::smallint[])[0 : indnkeyatts - 1])
                                and not attnotnull
                        )
                    order by not indisprimary, indnkeyatts, indexrelid limit 1
                ) as index
                cross join unnest(index.indkey::smallint[]) with ordinality as part (attnum, position)
                inner join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
                where part.position <= index.indnkeyatts
            ),
            '{}'
        ) as key,
        coalesce(
            (
                select json_object_agg(attname, format_type(atttypid, atttypmod) order by attnum) from pg_attribute
                where attrelid = relation.oid and attnum > 0 and not attisdropped
            ),
            '{}'
        ) as types,
        coalesce(
            (
                select jsonb_agg(
                    jsonb_build_array(
                        (
                            select jsonb_agg(attname order by position)
                            from unnest(conkey) with ordinality as part (attnum, position)
                            inner join pg_attribute on attrelid = conrelid and pg_attribute.attnum = part.attnum
                        ),
                        referred_schema.nspname,
                        referred.relname,
                        (
                            select jsonb_agg(attname order by position)
                            from unnest(confkey) with ordinality as part (attnum, position)
                            inner join pg_attribute on attrelid = confrelid and pg_attribute.attnum = part.attnum
                        )
                    ) order by conname
                )
                from pg_constraint
                inner join pg_class as referred on referred.oid = confrelid
                inner join pg_namespace as referred_schema on referred_schema.oid = referred.relnamespace
                where conrelid = relation.oid and contype = 'f'
            ),
            '[]'
        ) as "references",
        array(
            select inhparent::regclass::text from pg_inherits where inhrelid = relation.oid order by inhseqno
        ) as inherits
    from pg_class as relation
    inner join pg_namespace on pg_namespace.oid = relnamespace
    -- a partitioned table has the rows of its partitions
    cross join lateral (
        select
            coalesce(sum(greatest(part.reltuples, 0)), 0)::bigint as rows,
            coalesce(sum(pg_total_relation_size(part.oid)), 0)::bigint as bytes
        from pg_class as part
        where part.oid = relation.oid and relation.relkind <> 'p'
            or relation.relkind = 'p'
            and part.oid in (select relid from pg_partition_tree(relation.oid) where isleaf)
    ) as parts
    where relkind in ('r', 'p', 'v', 'm', 'f') and not relispartition
        and nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)'
        and (cardinality(%(schemas)s::text[]) = 0 or nspname = any(%(schemas)s::text[]))
        and not exists (
            select from pg_depend where classid = 'pg_class'::regclass and objid = relation.oid and deptype = 'e'
        )
    order by nspname, relname
"""
