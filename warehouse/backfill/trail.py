"""Record in the audit trail how the load of each day of a backfill ended."""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime

import psycopg

from warehouse.backfill.partition import DailyLoad, DayLoad
from warehouse.errors import summarize_error
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.redact import redact


def load_day(run: Run, feed: DailyLoad, day: date, same_backfill: Collection[int] = ()) -> DayLoad:
    """Load a day of a source or of the web logs again, and record how that ended; a failure is recorded and raised."""
    started_at = datetime.now(UTC)
    try:
        loaded = feed.load(run, day, {run.run_id, *same_backfill})
    except Exception as error:
        _record(run, feed.name, day, "failed", 0, redact(summarize_error(error)), started_at)
        raise
    # If this run lost its lock, another run may have loaded the day meanwhile.
    ensure_alive(run)
    _record(run, feed.name, day, "loaded", loaded.rows, loaded.message, started_at)
    return loaded


def done_by(connection: psycopg.Connection, run_ids: Collection[int]) -> set[tuple[str, date]]:
    """Source and day of each partition that these runs have loaded."""
    rows = connection.execute(
        "select feed, partition_date from audit.partition_load where run_id = any(%s) and status = 'loaded'",
        [list(run_ids)],
    ).fetchall()
    return set(rows)


def last_tries(
    connection: psycopg.Connection, first: date, last: date
) -> Sequence[tuple[str, date, str, str | None, datetime]]:
    """Return the last load of each day of each source by a backfill: (feed, day, status, message, time)."""
    return connection.execute(
        """
        select distinct on (feed, partition_date) feed, partition_date, status, message, ended_at
        from audit.partition_load where partition_date between %s and %s
        order by feed, partition_date, run_id desc
        """,
        [first, last],
    ).fetchall()


def _record(
    run: Run, feed: str, day: date, status: str, rows: int, message: str | None, started_at: datetime
) -> None:
    run.connection.execute(
        """
        insert into audit.partition_load (run_id, feed, partition_date, status, rows_loaded, message, started_at)
        values (%s, %s, %s, %s, %s, %s, %s)
        on conflict (feed, partition_date, run_id) do update set
            status = excluded.status, rows_loaded = excluded.rows_loaded, message = excluded.message,
            started_at = excluded.started_at, ended_at = clock_timestamp()
        """,
        [run.run_id, feed, day, status, rows, message, started_at],
    )
