"""Freshness: the time as of which a source is complete in the warehouse (its snapshot, not the publishing)."""

from datetime import datetime

import psycopg


def record_complete(connection: psycopg.Connection, run_id: int, source: str, complete_at: datetime) -> None:
    """Record that the warehouse holds everything that `source` had at `complete_at`.

    Call it in the transaction that publishes the last rows. Take `complete_at` before reading the first row, since rows
    that arrive later may not be in the warehouse.
    """
    with connection.transaction():
        # Name the run in the before-image, so that its undo restores the earlier value.
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        connection.execute(
            """
            insert into audit.freshness (source, complete_at, run_id) values (%s, %s, %s)
            on conflict (source) do update set complete_at = excluded.complete_at, run_id = excluded.run_id
            """,
            [source, complete_at, run_id],
        )


def has_published(connection: psycopg.Connection, run_id: int, source: str) -> bool:
    """Whether the run has published rows that it read from `source`. Rebuilt tables do not count."""
    query = "select from audit.freshness where source = %s and run_id = %s"
    return bool(connection.execute(query, [source, run_id]).rowcount)


def forget_complete(connection: psycopg.Connection, source: str, run_id: int) -> None:
    """Delete the freshness of run `run_id`, which is undone, and of later runs: they did not read its rows again."""
    connection.execute("delete from audit.freshness where source = %s and run_id >= %s", [source, run_id])


def read_clock(connection: psycopg.Connection) -> datetime:
    """Return the server's time, which is not later than the snapshot of any following statement."""
    row = connection.execute("select statement_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
