"""Read the report's data from the marts, all in one snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from warehouse.db.connections import connect, without_password
from warehouse.db.schema_version import ensure_migrated
from warehouse.model.documentation import Relation, read_relations
from warehouse.model.mart import answers

SQL = Path(__file__).parent / "queries"
Row = dict[str, Any]

MARTS = {
    "monthly_sales": "source_system, currency, month",
    "as_of": "source_system",
    "countries_by_logged_users": "country_rank",
    "table_freshness": "source, table_name",
    "data_quality": "source, dataset, check_name",
    "quarantine_by_rule": "waiting_count desc, source, entity, rule",
    "quarantine_size": "source",
    "capture_verification": "source, table_name",
    "unread_file": "status = 'ignored', feed, path",
}


# Show at most this many rows of a mart.
MOST_ROWS = 200


@dataclass(frozen=True)
class Content:
    """Rows of each mart and query by its name, with the time and database that they were read from."""

    rows: Mapping[str, list[Row]]
    read_at: datetime
    database: str
    # Rows of each mart that is shown as a table.
    answers: Mapping[str, list[Row]]
    catalogue: Sequence[Relation]
    # The time zone of days and months.
    time_zone: str = "UTC"

    def __getitem__(self, name: str) -> list[Row]:
        return self.rows[name]

    def in_groups(self, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
        """Group rows by source and currency, which are never added up; groups with most orders come first."""
        orders = {_group_of(row): row["order_count"] for row in self.answers["total_sales"]}

        def place(row: Row) -> tuple[int, str]:
            return -orders.get(_group_of(row), 0), _group_of(row)

        return [(group, list(found)) for group, found in groupby(sorted(rows, key=place), key=_group_of)]


def read(url: str) -> Content:
    """Read the report's data; an empty warehouse gives empty lists.

    Raises:
        ConnectionFailed: the warehouse cannot be reached.
        SchemaOutdated: it lacks the marts that this code reads.
    """
    ensure_migrated(url)
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        rows = {name: _rows(connection, query) for name, query in queries().items()}
        shown = {mart.name: _rows(connection, mart.select(MOST_ROWS)) for mart in answers()}
        read_at, zone = connection.execute(text("select now(), mart.time_zone()")).one()
    with connect(url, autocommit=True) as direct:
        catalogue = read_relations(direct)
    return Content(rows, read_at, without_password(url).rpartition("/")[2], shown, catalogue, zone)


def queries() -> dict[str, str]:
    """Return the SQL of all data in the report other than the marts shown as tables, by name."""
    marts = {name: f"select * from mart.{name} order by {order}" for name, order in MARTS.items()}
    return marts | {path.stem: path.read_text() for path in sorted(SQL.glob("*.sql"))}


def _group_of(row: Row) -> str:
    return ", ".join(str(row[part]) for part in ("source_system", "currency") if row.get(part) is not None)


def _rows(connection: Connection, query: str) -> list[Row]:
    # Do not use pandas: it converts integer columns with a NULL to floats (Customer 614.0).
    records = connection.execute(text(query)).mappings()
    return [{name: _number(value) for name, value in row.items()} for row in records]


def _number(value: Any) -> Any:
    """Convert decimals to floats, and NaN to None."""
    if isinstance(value, Decimal):
        value = float(value)
    return None if value != value else value
