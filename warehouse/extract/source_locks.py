"""Lock the tables of a source for reading; if another session has locked one, wait for it and report who it is."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg import sql

from warehouse.db.connections import read_only_transaction
from warehouse.db.lock_holder import LockHolder, find_holder
from warehouse.errors import SourceLocked
from warehouse.sources.source import Table

# Locks are requested in short attempts: a request that waits keeps the locks that it has got already.
ATTEMPT_SECONDS = 5.0
FIRST_ATTEMPT_SECONDS = 1.0
# Errors that `check_readable` reports with a hint, for the table concerned.
_UNREADABLE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.WrongObjectType,
)


def lock_tables(
    connection: psycopg.Connection,
    source: str,
    url: str,
    tables: Sequence[Table],
    wait_seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Lock the tables against TRUNCATE and ALTER TABLE, in a transaction that has not taken its snapshot yet.

    A table that is rewritten after the snapshot shows no rows to it: all would seem to be deleted. Tables that do not
    exist or may not be read are not locked; `check_readable` reports them.

    Raises:
        SourceLocked: another session still holds a lock on one after `wait_seconds`; names the session.
    """
    give_up_at = time.monotonic() + wait_seconds
    limit = min(wait_seconds, FIRST_ATTEMPT_SECONDS)
    waits_for: LockHolder | None = None
    while True:
        _limit(connection, limit)
        # `check_readable` explains a missing table. None of these statements takes a snapshot, nor does a savepoint.
        with suppress(psycopg.errors.LockNotAvailable):
            with suppress(*_UNREADABLE):
                _lock(connection, tables)
            # Later statements wait for other locks no longer than this waits for a table.
            _limit(connection, max(wait_seconds, FIRST_ATTEMPT_SECONDS))
            return
        # Over another connection: a query on this one would take the snapshot.
        with read_only_transaction(source, url, application_name="dwh capture locks") as other:
            before, waits_for = waits_for, _find_holder(other, tables) or waits_for
        limit = min(ATTEMPT_SECONDS, give_up_at - time.monotonic())
        if limit <= 0:
            raise _locked(source, waits_for, wait_seconds)
        if waits_for is not None and (before is None or before.ending != waits_for.ending):
            progress(
                f"waiting up to {wait_seconds:,.0f} s for {waits_for.relation}, which is locked by {waits_for}"
            )


def _lock(connection: psycopg.Connection, tables: Sequence[Table]) -> None:
    names = sql.SQL(", ").join(sql.Identifier(*table.at_source) for table in tables)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("lock table {} in access share mode").format(names))
    except psycopg.errors.WrongObjectType:
        # Materialized views and foreign tables cannot be locked; all others still are.
        if len(tables) > 1:
            for table in tables:
                with suppress(*_UNREADABLE):
                    _lock(connection, [table])


def _limit(connection: psycopg.Connection, seconds: float) -> None:
    # For this transaction only: a pooler may give the connection to another client next.
    connection.execute(f"set local lock_timeout = '{max(int(seconds * 1000), 1)}ms'".encode())


def _locked(source: str, holder: LockHolder | None, wait_seconds: float) -> SourceLocked:
    wait = f"DWH_SOURCE_LOCK_WAIT (now {wait_seconds:,.0f} s) sets how long a run waits."
    if holder is None:
        return SourceLocked(
            f"A table of source '{source}' was locked for all of the {wait_seconds:,.0f} s that this run waited.",
            hint=f"Run again: nothing was changed. {wait}",
        )
    return SourceLocked(
        f"{holder.relation} of source '{source}' is locked by {holder}, and was for all of the {wait_seconds:,.0f} s "
        "that this run waited.",
        hint="Nothing was changed. Wait for it to end and run again, or end it there: "
        f"{holder.ending}; {wait}",
    )


def _find_holder(connection: psycopg.Connection, tables: Sequence[Table]) -> LockHolder | None:
    """Who holds, or else waits for, a lock that keeps one of the tables from being read."""
    schemas, names = zip(*(table.at_source for table in tables), strict=True)
    return find_holder(
        connection,
        """
        held.mode = 'AccessExclusiveLock' and held.relation in (
            with recursive wanted as (
                select to_regclass(format('%%I.%%I', name, relation))::oid as oid
                from unnest(%(schemas)s::text[], %(names)s::text[]) as declared (name, relation)
                union
                select inhrelid from pg_inherits inner join wanted on inhparent = wanted.oid
            )

            select oid from wanted
        )
        """,
        {"schemas": list(schemas), "names": list(names)},
    )
