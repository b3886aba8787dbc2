"""Which process of `dwh live` is at work on a source, what it waits for, and whether an undo holds it back."""

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg
from psycopg.rows import class_row

from warehouse.db.locks import NAMED

# What the names of all flows of live begin with.
FLOW_PREFIX: Final = "live-"


def lock_name(source: str) -> str:
    """Name of the lock that the process of a source holds for as long as it stays."""
    return f"live {source}"


def flow_name(source: str) -> str:
    """Name of the flow whose runs the process of a source publishes by."""
    return f"{FLOW_PREFIX}{source}"


@dataclass(frozen=True)
class LiveProcess:
    """The last process of a source, as audit.live has it."""

    source: str
    host: str
    pid: int
    started_at: datetime
    stopped_at: datetime | None
    asked_at: datetime | None
    run_id: int | None
    state: str
    reason: str | None
    since: datetime
    held_by_run_id: int | None
    held_at: datetime | None
    # Whether a session holds its lock.
    is_alive: bool

    @property
    def flow(self) -> str:
        """Flow of its runs."""
        return flow_name(self.source)


def read_processes(connection: psycopg.Connection) -> list[LiveProcess]:
    """The last process of each source that was ever live."""
    with connection.cursor(row_factory=class_row(LiveProcess)) as cursor:
        return cursor.execute(
            f"""
            select live.*, exists (
                select from pg_locks
                where locktype = 'advisory' and classid = {NAMED} and granted
                    and objid = hashtext('live ' || source)::bigint & 4294967295
                    and database = (select oid from pg_database where datname = current_database())
            ) as is_alive
            from audit.live order by source
            """.encode()
        ).fetchall()


def is_running(connection: psycopg.Connection, source: str) -> bool:
    """Whether a process of live follows `source` now."""
    return any(one.is_alive for one in read_processes(connection) if one.source == source)


def begin(connection: psycopg.Connection, source: str) -> None:
    """Record that this process is at work on `source`."""
    connection.execute(
        """
        insert into audit.live (source, host, pid) values (%s, %s, %s)
        on conflict (source) do update set host = excluded.host, pid = excluded.pid,
            started_at = clock_timestamp(), stopped_at = null, asked_at = null, run_id = null,
            state = 'running', reason = null, since = clock_timestamp()
        """,
        [source, socket.gethostname(), os.getpid()],
    )


def end(connection: psycopg.Connection, source: str) -> None:
    """Record that the process of `source` has ended as it was told to."""
    connection.execute(
        "update audit.live set stopped_at = clock_timestamp(), run_id = null where source = %s", [source]
    )


def record_state(
    connection: psycopg.Connection, source: str, *, run_id: int | None, reason: str | None = None
) -> None:
    """Record that the process is running, and by which run it publishes; or the `reason` why it waits."""
    connection.execute(
        """
        update audit.live set run_id = %(run_id)s, reason = %(reason)s, state = %(state)s,
            asked_at = clock_timestamp(), stopped_at = null,
            since = case when state = %(state)s then since else clock_timestamp() end
        where source = %(source)s
        """,
        {
            "source": source,
            "run_id": run_id,
            "reason": reason,
            "state": "running" if reason is None else "waiting",
        },
    )


def hold(connection: psycopg.Connection, source: str, run_id: int, *, is_undone: bool) -> bool:
    """Hold live back for `source` where it runs, or where `run_id` undoes what it has published (`is_undone`).

    Call it in the transaction of the undo: else the next batch loads again what was taken back. Returns whether live
    is held.
    """
    held = connection.execute(
        "update audit.live set held_by_run_id = %s, held_at = clock_timestamp() "
        "where source = %s and (%s or stopped_at is null)",
        [run_id, source, is_undone],
    )
    return bool(held.rowcount)


def resume(connection: psycopg.Connection, sources: list[str]) -> list[str]:
    """Let live go on with sources that an undo holds back; returns those that were held."""
    rows = connection.execute(
        """
        update audit.live set held_by_run_id = null, held_at = null
        where source = any(%s) and held_by_run_id is not null returning source
        """,
        [sources],
    ).fetchall()
    return sorted(source for (source,) in rows)


def find_gone(connection: psycopg.Connection, after: timedelta = timedelta(minutes=2)) -> list[LiveProcess]:
    """Processes that have ended without having been told to: they hold no lock, and were last heard of long ago.

    One that connects again after its server has restarted holds none for a moment.
    """
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    return [
        one
        for one in read_processes(connection)
        if one.stopped_at is None
        and not one.is_alive
        and max(filter(None, (one.started_at, one.asked_at, one.since))) < row[0] - after
    ]


def held_by(connection: psycopg.Connection, source: str) -> int | None:
    """The undo that holds live back for `source`."""
    row = connection.execute("select held_by_run_id from audit.live where source = %s", [source]).fetchone()
    return row[0] if row else None
