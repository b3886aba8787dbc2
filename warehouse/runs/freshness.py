"""As of when a source or feed is complete in the warehouse: the time of its snapshot, not that of publishing it."""

from datetime import datetime

import psycopg


def record_complete(connection: psycopg.Connection, run_id: int, source: str, complete_at: datetime) -> None:
    """Record that the warehouse holds everything that `source` had at `complete_at`.

    Call it in the transaction that publishes the last of it. `complete_at` is taken before the first row is read: what
    comes while a run reads and publishes may not be in the warehouse.
    """
    with connection.transaction():
        # The before-image names the run, so that its undo brings back what was recorded before.
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        connection.execute(
            """
            insert into audit.freshness (source, complete_at, run_id) values (%s, %s, %s)
            on conflict (source) do update set complete_at = excluded.complete_at, run_id = excluded.run_id
            """,
            [source, complete_at, run_id],
        )


def has_published(connection: psycopg.Connection, run_id: int, source: str) -> bool:
    """Whether the run has published what it read of `source`; what it rebuilt before that does not count."""
    query = "select from audit.freshness where source = %s and run_id = %s"
    return bool(connection.execute(query, [source, run_id]).rowcount)


def forget_complete(connection: psycopg.Connection, source: str, run_id: int) -> None:
    """Forget what run `run_id`, which is undone, and later ones have recorded: they left to it what it had loaded."""
    connection.execute("delete from audit.freshness where source = %s and run_id >= %s", [source, run_id])


def read_clock(connection: psycopg.Connection) -> datetime:
    """The server's time, not later than the snapshot of any statement that follows."""
    row = connection.execute("select statement_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
