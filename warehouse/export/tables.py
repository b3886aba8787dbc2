"""List what is exported: every dimension, fact and mart as Parquet tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from warehouse.model.mart import Mart, read_marts
from warehouse.model.masking import MASKED_MARTS
from warehouse.model.schema import TABLES
from warehouse.model.star import FACTS, SNAPSHOTS
from warehouse.model.weblog import FACT as WEBLOG


class Divided(NamedTuple):
    """How a table is divided into days: its event time or date, and the fact whose changes determine changed days."""

    event: str
    fact: str


DIVIDED: Final[Mapping[str, Divided]] = {
    **{fact.table: Divided(fact.event_time, fact.table) for fact in FACTS},
    **{snapshot.table: Divided("snapshot_date", snapshot.table) for snapshot in SNAPSHOTS},
    WEBLOG.name: Divided("requested_at", WEBLOG.name),
    # This mart is as large as the fact, and its old rows change only with new rules. Other marts are exported
    # completely: they show attributes of dimensions, which loads overwrite in old rows (type 1).
    "weblog": Divided("request_timestamp", WEBLOG.name),
}


@dataclass(frozen=True)
class ExportedTable:
    """A table or view to export: divided by UTC days, or complete under the day of the export."""

    name: str
    relation: str
    description: str
    divided: Divided | None = None
    # Description of each column.
    columns: Mapping[str, str] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict)
    # Columns that are not exported.
    hidden: frozenset[str] = frozenset()

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(*self.relation.split("."))


def exported_tables() -> list[ExportedTable]:
    """Return dimensions and facts with all columns, and marts as masked views or without personal columns."""
    star = [
        ExportedTable(
            table.name,
            str(table),
            table.description,
            DIVIDED.get(table.name),
            columns={column.name: column.description for column in table.columns},
            personal={column.name: column.personal for column in table.columns if column.personal},
        )
        for table in TABLES
        if table.schema == "dwh" and table.name.startswith(("dim_", "fact_"))
    ]
    marts = [
        ExportedTable(
            mart.name,
            f"mart.{shown(mart)}",
            mart.description,
            DIVIDED.get(mart.name),
            columns=mart.columns,
            hidden=frozenset(mart.personal),
        )
        for mart in read_marts().values()
    ]
    return star + marts


def shown(mart: Mart) -> str:
    """Return the view of a mart to read: the masked one if there is one."""
    return f"{mart.name}_masked" if mart.name in MASKED_MARTS else mart.name


def definition_of(connection: psycopg.Connection, table: ExportedTable) -> str:
    """Return a hash of a table's columns and, for marts, of the web-log rules: if it changes, all days are exported."""
    row = connection.execute(
        """
        select md5(
            (
                select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
                from pg_attribute where attrelid = %(relation)s::regclass and attnum > 0 and not attisdropped
            )
            || case when %(is_mart)s then coalesce((
                select string_agg(table_name || part || hash, ', ' order by table_name, part)
                from audit.definition where source = 'weblogs'
            ), '') else '' end
        )
        """,
        {
            "relation": table.identifier.as_string(connection),
            "is_mart": table.relation.startswith("mart."),
        },
    ).fetchone()
    assert row is not None
    return str(row[0])
