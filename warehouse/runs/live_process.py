"""State of the `dwh live` process of each source in audit.live: running, waiting, or held back by an undo."""

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg
from psycopg.rows import class_row

from warehouse.db.locks import NAMED

# Prefix of the names of live flows.
FLOW_PREFIX: Final = "live-"


def lock_name(source: str) -> str:
    """Return the name of the lock that the live process of a source holds."""
    return f"live {source}"


def flow_name(source: str) -> str:
    """Return the name of the flow in whose runs the live process of a source publishes."""
    return f"{FLOW_PREFIX}{source}"


@dataclass(frozen=True)
class LiveProcess:
    """The last live process of a source: a row of audit.live."""

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
    # Whether a session holds the process's lock.
    is_alive: bool

    @property
    def flow(self) -> str:
        """The flow of the process's runs."""
        return flow_name(self.source)


def read_processes(connection: psycopg.Connection) -> list[LiveProcess]:
    """Return the last live process of each source."""
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
    """Whether a live process is running for `source`."""
    return any(one.is_alive for one in read_processes(connection) if one.source == source)


def begin(connection: psycopg.Connection, source: str) -> None:
    """Record that this process is the live process of `source`."""
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
    """Record that the live process of `source` was ended on purpose."""
    connection.execute(
        "update audit.live set stopped_at = clock_timestamp(), run_id = null where source = %s", [source]
    )


def record_state(
    connection: psycopg.Connection, source: str, *, run_id: int | None, reason: str | None = None
) -> None:
    """Record that the process is running, with the run in which it publishes, or the `reason` why it waits."""
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
    """Hold the live process of `source` back during an undo, if it runs or `run_id` undoes its rows (`is_undone`).

    Call it in the transaction of the undo: otherwise the next batch loads the undone rows again. Returns whether live
    is held.
    """
    held = connection.execute(
        "update audit.live set held_by_run_id = %s, held_at = clock_timestamp() "
        "where source = %s and (%s or stopped_at is null)",
        [run_id, source, is_undone],
    )
    return bool(held.rowcount)


def resume(connection: psycopg.Connection, sources: list[str]) -> list[str]:
    """Release live processes that an undo holds back. Returns the sources that were held."""
    rows = connection.execute(
        """
        update audit.live set held_by_run_id = null, held_at = null
        where source = any(%s) and held_by_run_id is not null returning source
        """,
        [sources],
    ).fetchall()
    return sorted(source for (source,) in rows)


def find_gone(connection: psycopg.Connection, after: timedelta = timedelta(minutes=2)) -> list[LiveProcess]:
    """Return processes that died: they hold no lock, and were last seen longer ago than `after`.

    The delay is for processes that reconnect after a restart of the server: they hold no lock for a moment.
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
    """Return the run id of the undo that holds live back for `source`; None if there is none."""
    row = connection.execute("select held_by_run_id from audit.live where source = %s", [source]).fetchone()
    return row[0] if row else None
