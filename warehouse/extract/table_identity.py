"""Identity of a source table: the relations that store its rows, and its columns and types.

A table that is renamed into place, and a partition that is attached, bring rows without a new transaction id; a column
that is dropped and added again, and a renamed enum value, change rows without one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql

from warehouse.extract.catalog import names_at_source
from warehouse.sources.source import Table

# Names of an enum's value and of a composite type's fields in `TableIdentity.columns`.
_ENUM_VALUE = re.compile(r"(.+) value \d+", re.DOTALL)
_FIELDS = " fields"


@dataclass(frozen=True)
class TableIdentity:
    """What a table is in its database, apart from its name and its rows."""

    # Names, by oid, of the table itself and its partitions or inheritance children.
    relations: Mapping[str, str]
    # Number and type of each column; labels of the enums and fields of the composite types that they use.
    columns: Mapping[str, str]
    # File of each relation, by oid; TRUNCATE changes it. None if it was not recorded.
    files: Mapping[str, int] | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> "TableIdentity | None":
        """Read the identity that a watermark recorded; None if it was written before this was recorded."""
        return cls(**stored) if stored else None

    def stored(self) -> dict[str, Any]:
        """Return the JSON object that a watermark records."""
        return asdict(self)

    def new_relations(self, before: "TableIdentity") -> list[str]:
        """Oids of relations that were not part of the table `before`."""
        return sorted(self.relations.keys() - before.relations.keys(), key=int)

    def is_rewritten(self, before: "TableIdentity") -> bool:
        """Whether a relation is stored in another file than `before`, was removed, or is new."""
        return before.files is not None and self.files != before.files

    def changes_of_columns(self, before: "TableIdentity") -> list[str]:
        """Describe each column and type whose definition is another than `before`."""
        changes = []
        for name, kind in sorted(before.columns.items()):
            now = self.columns.get(name, kind)
            if now == kind:
                continue
            if value := _ENUM_VALUE.fullmatch(name):
                changes.append(f"value '{kind}' of {value[1]} is now '{now}'")
            elif name.endswith(_FIELDS):
                changes.append(f"the fields of {name.removesuffix(_FIELDS)} were changed")
            else:
                changes.append(f"column {name} was changed or made again")
        return changes


def read_identities(connection: psycopg.Connection, tables: Sequence[Table]) -> list[TableIdentity]:
    """Read the identities of `tables` from the source's catalog."""
    rows = connection.execute(_IDENTITIES, names_at_source(tables)).fetchall()
    return [TableIdentity(*row) for row in rows]


def stored_in(relations: Sequence[str]) -> sql.Composable:
    """Condition on a source row: it is stored in one of these relations."""
    return sql.SQL("tableoid = any({}::oid[])").format(sql.Literal(list(relations)))


_IDENTITIES = """
    with recursive root as (
        select place, to_regclass(format('%%I.%%I', schema, name))::oid as oid
        from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality as wanted (schema, name, place)
    ),

    relation as (
        select place, oid from root
        union
        select place, inhrelid from pg_inherits inner join relation on inhparent = relation.oid
    ),

    part as (
        select place, atttypid as oid from root inner join pg_attribute on attrelid = root.oid
        where attnum > 0 and not attisdropped
        union
        -- Domains, arrays, composite types and ranges are made of other types.
        select part.place, used.oid
        from part
        inner join pg_type as type on type.oid = part.oid
        left join pg_attribute as field
            on field.attrelid = type.typrelid and field.attnum > 0 and not field.attisdropped
        -- PostgreSQL 13 has no rngmultitypid.
        left join pg_range as range
            on type.oid in (range.rngtypid, (to_jsonb(range) ->> 'rngmultitypid')::oid)
        cross join lateral (
            values (type.typbasetype), (type.typelem), (field.atttypid), (range.rngsubtype)
        ) as used (oid)
        where used.oid > 0
    ),

    named as (
        select place, attname::text as name, format('%%s: %%s %%s', attnum, atttypid, atttypmod) as value
        from root inner join pg_attribute on attrelid = root.oid
        where attnum > 0 and not attisdropped
        union all
        select place, format('%%s value %%s', part.oid::regtype, label.oid), label.enumlabel::text
        from part inner join pg_enum as label on label.enumtypid = part.oid
        union all
        select
            place,
            format('%%s fields', part.oid::regtype),
            string_agg(format('%%s: %%s %%s', attnum, atttypid, atttypmod), ', ' order by attnum)
        from part
        inner join pg_type as type on type.oid = part.oid
        inner join pg_attribute as field on field.attrelid = type.typrelid
        where attnum > 0 and not attisdropped
        group by place, part.oid
    )

    select
        (select jsonb_object_agg(oid, oid::regclass::text) from relation where relation.place = root.place),
        (select jsonb_object_agg(name, value) from named where named.place = root.place),
        (
            select jsonb_object_agg(oid, pg_relation_filenode(oid)::bigint)
            from relation where relation.place = root.place
        )
    from root
    order by place
    """
