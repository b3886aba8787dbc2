"""Advisory locks by name: held by a session or a transaction, and released when it ends."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from warehouse.errors import LockHeld

# Advisory locks have two keys: the first, the class, defines the meaning of the second.
NAMED = 7031
RUN = 7032
FILE = 7033

ENDED = "a run that has just ended"


# The lock's holder may change while it is looked up; if this many attempts find none, it is not visible to us.
ATTEMPTS = 10

# application_name of `dwh live` sessions begins so. They hold a lock for one batch, which may wait for another publish.
LIVE = "dwh live-"
BATCH_SECONDS = 600.0

Waiting = Callable[[str], None]


@contextmanager
def session_lock(
    connection: psycopg.Connection,
    name: str,
    *,
    shared: bool = False,
    wait_seconds: float = 0,
    waiting: Waiting = lambda _: None,
) -> Iterator[None]:
    """Hold the session lock `name` within the block; with `shared`, other sessions may share it.

    If this has to wait, it calls `waiting` with a message that names the holder.

    Raises:
        LockHeld: another session still holds it after `wait_seconds`; names it, and since when.
    """
    mode = sql.SQL("_shared" if shared else "")
    if not _take_if_free(connection, name, mode):
        holder = _holder(connection, name)
        if wait_seconds:
            waiting(f"waiting up to {wait_seconds:,.0f} s for '{name}', which is held by {holder or ENDED}")
        for attempt in range(ATTEMPTS):
            # `dwh live` holds the lock for one batch only; a session that waits gets it before the next batch.
            is_brief = (holder or "").startswith(LIVE)
            if _take(connection, name, mode, max(wait_seconds, BATCH_SECONDS if is_brief else 0)):
                break
            holder = _holder(connection, name)
            # Live may have taken it since: who was not waiting for its batch does so now.
            is_next_batch = not is_brief and (holder or "").startswith(LIVE)
            if (holder and not is_next_batch) or attempt == ATTEMPTS - 1:
                raise LockHeld(
                    f"'{name}' is being loaded by {holder or ENDED}.",
                    hint="Wait for it to end, or run again later: nothing was changed.",
                )
    try:
        yield
    finally:
        # A broken connection has freed its locks by itself.
        with suppress(psycopg.OperationalError, psycopg.InterfaceError):
            free = sql.SQL("select pg_advisory_unlock{}(%s, hashtext(%s))").format(mode)
            connection.execute(free, [NAMED, name])


def transaction_lock(connection: psycopg.Connection, name: str, waiting: Waiting = lambda _: None) -> None:
    """Wait for the lock `name`, calling `waiting` with its holder, and hold it to the end of the transaction."""
    if not try_transaction_lock(connection, name):
        waiting(f"waiting for '{name}', which is held by {_holder(connection, name) or ENDED}")
        connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [NAMED, name])


def try_transaction_lock(connection: psycopg.Connection, name: str) -> bool:
    """Take the lock `name` to the end of the transaction if it is free. Returns whether it was."""
    row = connection.execute("select pg_try_advisory_xact_lock(%s, hashtext(%s))", [NAMED, name]).fetchone()
    return row == (True,)


def is_held(connection: psycopg.Connection, name: str) -> bool:
    """Whether any session holds the lock `name`."""
    return _holder(connection, name) is not None


def try_files(connection: psycopg.Connection, keys: Iterable[int]) -> bool:
    """Take session locks on the files with these `keys`: all, or none if another session holds one. Locks on a key add
    up: each must be released."""
    got = connection.execute(
        "select key, pg_try_advisory_lock(%s, key) from unnest(%s::integer[]) as key", [FILE, list(keys)]
    ).fetchall()
    if all(is_mine for _, is_mine in got):
        return True
    free_files(connection, [key for key, is_mine in got if is_mine])
    return False


def free_files(connection: psycopg.Connection, keys: Iterable[int]) -> None:
    """Release locks on files."""
    connection.execute(
        "select pg_advisory_unlock(%s, key) from unnest(%s::integer[]) as key", [FILE, list(keys)]
    )


def _take_if_free(connection: psycopg.Connection, name: str, mode: sql.SQL) -> bool:
    """Take the lock if it is free. Nobody waits for a free lock, so this overtakes no other session."""
    row = connection.execute(
        sql.SQL("select pg_try_advisory_lock{}(%s, hashtext(%s))").format(mode), [NAMED, name]
    ).fetchone()
    return row == (True,)


def _take(connection: psycopg.Connection, name: str, mode: sql.SQL, wait_seconds: float) -> bool:
    with connection.transaction():
        # Within an outer transaction, lock_timeout must be restored afterwards.
        (limit,) = connection.execute("select current_setting('lock_timeout')").fetchone() or ("0",)
        _limit(connection, f"{int(wait_seconds * 1000) or 1}ms")
        try:
            with connection.transaction():
                take = sql.SQL("select pg_advisory_lock{}(%s, hashtext(%s))").format(mode)
                connection.execute(take, [NAMED, name])
        except psycopg.errors.LockNotAvailable:
            _limit(connection, limit)
            return False
        _limit(connection, limit)
    return True


def _limit(connection: psycopg.Connection, limit: str) -> None:
    connection.execute("select set_config('lock_timeout', %s, true)", [limit])


def _holder(connection: psycopg.Connection, name: str) -> str | None:
    row = connection.execute(
        """
        select activity.application_name, run.objid::bigint, activity.pid, activity.backend_start
        from pg_locks as held
        join pg_stat_activity as activity using (pid)
        -- the second key of a run's lock is its run_id
        left join pg_locks as run
            on run.pid = held.pid and run.locktype = 'advisory' and run.classid = %s and run.database = held.database
        where held.locktype = 'advisory' and held.granted
            and held.database = (select oid from pg_database where datname = current_database())
            and held.classid = %s and held.objid = hashtext(%s)::bigint & 4294967295
        order by activity.backend_start limit 1
        """,
        [RUN, NAMED, name],
    ).fetchone()
    if row is None:
        return None
    application, run_id, pid, since = row
    holder = application if run_id is None else f"{application}, run {run_id}"
    # None: the server hides it from a session that acts as a role, even if the other one has the same login.
    connected = f", connected since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
    return f"{holder} (server process {pid}{connected})"


def source_lock(source: str) -> str:
    """Name of the lock that a run of a source holds while it loads; runs of the web logs share theirs."""
    return f"{'feed' if source == 'weblogs' else 'source'} {source}"
