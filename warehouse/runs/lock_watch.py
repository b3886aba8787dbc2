"""Log which table lock of the warehouse a run waits for and who holds it, and cancel the statement after a timeout."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Any

import psycopg
from psycopg.rows import dict_row

from warehouse.db.connections import cancel_own, connect, own_server_processes
from warehouse.db.lock_holder import PREPARED, LockHolder
from warehouse.errors import WarehouseError, WarehouseLocked

# Interval between two looks: shorter waits are not logged.
INTERVAL_SECONDS = 3.0

# Waits for advisory locks are reported elsewhere. For a row lock, the table is that of the tuple lock. A prepared
# transaction blocks as process 0: it is found by its lock on what the session waits for.
_WAITING = f"""
    select
        waiting.pid as waiting_pid,
        extract(epoch from clock_timestamp() - waiting.waitstart)::float8 as waited_seconds,
        coalesce(format('%%I.%%I', nspname, relname), 'a row') as relation,
        holder.pid, prepared.gid as prepared, coalesce(holder.usename::text, prepared.owner) as user,
        nullif(holder.application_name, '') as application, coalesce(holder.xact_start, prepared.since) as since,
        holder.state, holder.query, pg_blocking_pids(holder.pid) as waits_for
    from pg_locks as waiting
    inner join pg_stat_activity as session on session.pid = waiting.pid
    cross join lateral (
        select activity.* from unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
        left join pg_stat_activity as activity using (pid)
        where activity.pid is not null or blocking.pid = 0
        order by activity.xact_start limit 1
    ) as holder
    left join lateral (
        select prepared.* from ({PREPARED}) as prepared
        inner join pg_locks as held
            on held.virtualtransaction = prepared.virtualtransaction and held.pid is null
            and (
                (held.database, held.relation) = (waiting.database, waiting.relation)
                or held.transactionid = waiting.transactionid
            )
        where holder.pid is null
        order by prepared.since limit 1
    ) as prepared on true
    left join lateral (
        select coalesce(waiting.relation, tuple.relation) as oid from (select) as always
        left join pg_locks as tuple on tuple.pid = waiting.pid and tuple.locktype = 'tuple' and tuple.granted
        limit 1
    ) as locked on true
    left join pg_class on pg_class.oid = locked.oid
    left join pg_namespace on pg_namespace.oid = relnamespace
    where not waiting.granted and waiting.locktype <> 'advisory' and waiting.pid = any(%(own)s)
        and (session.application_name = %(name)s or session.application_name ~ ('^' || %(name)s || '[ :]'))
        and session.datname = current_database()
        and waiting.waitstart < clock_timestamp() - make_interval(secs => %(least_seconds)s)
    order by waiting.waitstart
"""


@contextmanager
def watch_locks(
    url: str,
    flow: str,
    wait_seconds: float,
    log: Callable[[str], None],
    interval_seconds: float | None = None,
) -> Iterator[None]:
    """During the block, log for which table locks the sessions of `flow` wait (by application_name).

    Raises:
        WarehouseLocked: a session has waited for `wait_seconds`; its statement was cancelled.
    """
    watch = _Watch(url, f"dwh {flow}", wait_seconds, log, interval_seconds or INTERVAL_SECONDS)
    # Copy the context: log lines take the run from it.
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(watch.run), name="lock watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        if watch.error is None:
            raise
        raise watch.error from None
    finally:
        watch.is_over.set()
        thread.join()


class _Watch:
    def __init__(
        self, url: str, name: str, wait_seconds: float, log: Callable[[str], None], interval_seconds: float
    ) -> None:
        self._url, self._name, self._log = url, name, log
        self._wait_seconds, self._interval_seconds = wait_seconds, interval_seconds
        self._named: set[tuple[int, str]] = set()
        self.is_over = threading.Event()
        self.error: WarehouseLocked | None = None

    def run(self) -> None:
        """Look at intervals until the block ends. Most runs end before the first look."""
        while not self.is_over.wait(self._interval_seconds):
            # Ignore database errors: the run meets the same error and reports it.
            with (
                suppress(psycopg.Error, WarehouseError),
                connect(self._url, autocommit=True, application_name="dwh lock watch") as connection,
            ):
                while not self.is_over.is_set():
                    self._look(connection)
                    self.is_over.wait(self._interval_seconds)

    def _look(self, connection: psycopg.Connection) -> None:
        values = {
            "own": own_server_processes(), "name": self._name, "least_seconds": min(self._interval_seconds, 1.0),
        }  # fmt: skip
        with connection.cursor(row_factory=dict_row) as cursor:
            for row in cursor.execute(_WAITING, values).fetchall():
                holder = LockHolder(**{field.name: row[field.name] for field in fields(LockHolder)})
                wait = (row["waiting_pid"], holder.ending)
                if row["waited_seconds"] >= self._wait_seconds:
                    self._give_up(row, holder)
                elif wait not in self._named:
                    self._named.add(wait)
                    self._log(
                        f"waiting up to {self._wait_seconds:,.0f} s for {holder.relation}, which is locked by {holder}"
                    )

    def _give_up(self, row: dict[str, Any], holder: LockHolder) -> None:
        self.error = WarehouseLocked(
            f"{holder.relation} of the warehouse is locked by {holder}, and was for all of the "
            f"{self._wait_seconds:,.0f} s that this run waited.",
            hint="Nothing of what waited was published. Wait for it to end and run again, or end it: "
            f'dwh psql -- -c "{holder.ending}". DWH_WAREHOUSE_LOCK_WAIT (now '
            f"{self._wait_seconds:,.0f} s) sets how long a run waits.",
        )
        cancel_own(row["waiting_pid"])
