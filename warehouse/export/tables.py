"""What is exported: every dimension, fact and mart as a table, every answer as a report."""

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
    """The column of the time or day by which a table is divided, and the fact by whose changes its changed days are
    found."""

    event: str
    fact: str


DIVIDED: Final[Mapping[str, Divided]] = {
    **{fact.table: Divided(fact.event_time, fact.table) for fact in FACTS},
    **{snapshot.table: Divided("snapshot_date", snapshot.table) for snapshot in SNAPSHOTS},
    WEBLOG.name: Divided("requested_at", WEBLOG.name),
    # As large as the fact, and nothing that it shows is corrected in place but by new rules. Other marts show
    # attributes of dimensions, which loads correct on old rows.
    "weblog": Divided("request_timestamp", WEBLOG.name),
}


@dataclass(frozen=True)
class ExportedTable:
    """A table or view to export: divided by UTC days, or as a whole, as of the day of export."""

    name: str
    relation: str
    description: str
    divided: Divided | None = None
    # Description of each column.
    columns: Mapping[str, str] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict)
    # Columns that are left out.
    hidden: frozenset[str] = frozenset()

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(*self.relation.split("."))


def exported_tables() -> list[ExportedTable]:
    """Dimensions and facts with all their columns; marts by their masked view, or without personal data."""
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
    """The view to read of a mart: the masked one where it has one."""
    return f"{mart.name}_masked" if mart.name in MASKED_MARTS else mart.name


def definition_of(connection: psycopg.Connection, table: ExportedTable) -> str:
    """Hash of what a table's files depend on beside its rows: its columns, and of web logs the rules that read them."""
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
