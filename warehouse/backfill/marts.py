"""Days of the stored marts: whether they were refreshed since the facts of the day last changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql

from warehouse.backfill.partition import DAY, Partition, Status, days_between, start_of
from warehouse.model.mart import stored_marts
from warehouse.model.star import FACTS


@dataclass(frozen=True)
class MartDays:
    """Days of all stored marts together, which `dwh run marts` refreshes completely."""

    name: str = "marts"

    def days(self, connection: psycopg.Connection, first: date, last: date) -> Mapping[date, Partition]:
        """Return the status of each day: stale if facts of it were loaded after the marts were refreshed."""
        row = connection.execute(
            """
            select min(refreshed_at) from (
                select max(loaded_at) as refreshed_at from audit.load where table_name = any(%s) group by table_name
            ) as mart
            """,
            # The other stored marts are computed once a day.
            [[f"mart.{mart.name}" for mart in stored_marts() if mart.follows]],
        ).fetchone()
        refreshed_at = row[0] if row else None
        newer = self._loaded_since(connection, first, last, refreshed_at) if refreshed_at else set()
        partitions = {}
        for day in days_between(first, last):
            status: Status = "loaded"
            if refreshed_at is None or refreshed_at < start_of(day):
                status = "missing"
            elif day in newer:
                status = "stale"
            elif refreshed_at < start_of(day + DAY):
                status = "partial"
            message = "facts of the day are newer than the marts" if status == "stale" else None
            partitions[day] = Partition(self.name, day, status, None, refreshed_at, message)
        return partitions

    def _loaded_since(
        self, connection: psycopg.Connection, first: date, last: date, refreshed_at: object
    ) -> set[date]:
        newer: set[date] = set()
        for fact in FACTS:
            rows = connection.execute(
                sql.SQL(
                    """
                    select distinct ({event} at time zone 'UTC')::date from {fact}
                    where {event} >= %s and {event} < %s and run_id in (
                        select run_id from audit.load where table_name = {table_name} and loaded_at > %s
                    )
                    """
                ).format(
                    event=sql.Identifier(fact.event_time),
                    fact=sql.Identifier("dwh", fact.table),
                    table_name=sql.Literal(f"dwh.{fact.table}"),
                ),
                [start_of(first), start_of(last + DAY), refreshed_at],
            ).fetchall()
            newer |= {day for (day,) in rows}
        return newer
