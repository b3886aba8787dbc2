"""Days of a captured source: the facts of a day of event time (UTC), derived from the mirrors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import psycopg
from psycopg import sql

from warehouse.backfill.partition import DAY, DayLoad, Partition, Status, days_between, start_of
from warehouse.load.replace_day import rederive
from warehouse.model.star import FACTS
from warehouse.runs.audit import Run
from warehouse.sources.source import Source


@dataclass(frozen=True)
class FactDays:
    """Days of a source, which is not captured by days: each capture brings all of its days up to date."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    def days(self, connection: psycopg.Connection, first: date, last: date) -> Mapping[date, Partition]:
        """Return the status of each day: loaded once a capture has begun after its end, even if it has no orders."""
        captured_at, failure = self._captured_at(connection), self._failure(connection)
        rows = self._rows(connection, first, last)
        partitions = {}
        for day in days_between(first, last):
            count, loaded_at = rows.get(day, (0, None))
            status: Status = "loaded"
            if captured_at is None or captured_at < start_of(day):
                status = "failed" if failure else "missing"
            elif captured_at < start_of(day + DAY):
                status = "failed" if failure else "partial"
            message = failure if status == "failed" else None
            partitions[day] = Partition(self.name, day, status, count, loaded_at, message)
        return partitions

    def load(self, run: Run, day: date, same_backfill: Collection[int]) -> DayLoad:
        """Replace the facts of a day from the mirrors."""
        loads = rederive(run, self.source, day)
        changed = sum(load.rows_inserted + load.rows_updated + load.rows_deleted for load in loads)
        rows, _ = self._rows(run.connection, day, day).get(day, (0, None))
        return DayLoad(rows, f"{changed:,} of them changed" if changed else None)

    def _captured_at(self, connection: psycopg.Connection) -> datetime | None:
        row = connection.execute(
            "select min(captured_at) from audit.watermark where source = %s", [self.name]
        ).fetchone()
        return row[0] if row else None

    def _failure(self, connection: psycopg.Connection) -> str | None:
        row = connection.execute(
            """
            select status, run_id, error from audit.run
            where flow = %s and parameters ->> 'source' = %s
                and status not in ('running', 'skipped', 'dry run', 'undone')
            order by run_id desc limit 1
            """,
            [f"ingest-{self.name}", self.name],
        ).fetchone()
        return None if row is None or row[0] == "succeeded" else f"run {row[1]} {row[0]}: {row[2]}"

    def _rows(
        self, connection: psycopg.Connection, first: date, last: date
    ) -> dict[date, tuple[int, datetime | None]]:
        """Count the facts of each day, with the time when the newest of them was loaded."""
        counts: dict[date, tuple[int, datetime | None]] = {}
        for fact in FACTS:
            rows = connection.execute(
                sql.SQL(
                    """
                    select counted.day, counted.row_count, load.loaded_at
                    from (
                        select ({event} at time zone 'UTC')::date as day, count(*) as row_count, max(run_id) as run_id
                        from {fact} where {event} >= %s and {event} < %s and source_system = %s group by 1
                    ) as counted
                    left join lateral (
                        select max(loaded_at) as loaded_at from audit.load
                        where load.run_id = counted.run_id and load.table_name = {table_name}
                    ) as load on true
                    """
                ).format(
                    event=sql.Identifier(fact.event_time),
                    fact=sql.Identifier("dwh", fact.table),
                    table_name=sql.Literal(f"dwh.{fact.table}"),
                ),
                [start_of(first), start_of(last + DAY), self.name],
            ).fetchall()
            for day, count, loaded_at in rows:
                before, at = counts.get(day, (0, None))
                counts[day] = (before + count, max(filter(None, (at, loaded_at)), default=None))
        return counts
