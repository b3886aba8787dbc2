"""The session or prepared transaction that keeps a session waiting: who it is, since when, and what it does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

# Second words of a statement that are safe to show: any other word may be a value.
_OBJECTS = (
    "table",
    "index",
    "materialized",
    "schema",
    "view",
    "trigger",
    "into",
    "from",
    "full",
    "concurrently",
)


@dataclass(frozen=True)
class LockHolder:
    """Who keeps a table from being read or written; what the server hides from this user is None."""

    relation: str
    # None if it is a prepared transaction, which has no session.
    pid: int | None
    # Identifier of the prepared transaction.
    prepared: str | None
    user: str | None
    application: str | None
    since: datetime | None
    state: str | None
    query: str | None
    waits_for: list[int]

    def __str__(self) -> str:
        if self.pid is None:
            since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
            return f"the prepared transaction '{self.prepared or 'unknown'}' of {self.user or 'another user'}{since}"
        since = f", in a transaction since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        doing = ""
        if statement := _shortened(self.query):
            doing = f", {'at work on' if self.state == 'active' else 'idle in it after'}: {statement}"
        waits = (
            f", which waits for server process {', '.join(map(str, self.waits_for))}"
            if self.waits_for
            else ""
        )
        application = f"{self.application}, " if self.application else ""
        return f"{self.user or 'another user'} ({application}server process {self.pid}{since}{doing}{waits})"

    @property
    def ending(self) -> str:
        """The statement that ends it."""
        if self.pid is not None:
            return f"select pg_terminate_backend({self.pid})"
        return "rollback prepared '{}'".format((self.prepared or "…").replace("'", "''"))


def find_holder(
    connection: psycopg.Connection, condition: str, parameters: Mapping[str, object] | None = None
) -> LockHolder | None:
    """Find who has a lock on a relation of this database that satisfies `condition`: prefer one that holds the lock to
    one that waits, then the one with the oldest transaction.

    `condition` is SQL over pg_locks as held, pg_class and pg_namespace, with `parameters` by name.
    """
    with connection.cursor(row_factory=class_row(LockHolder)) as cursor:
        return cursor.execute(_HOLDER.replace("{condition}", condition).encode(), parameters or {}).fetchone()


def find_longest_user(connection: psycopg.Connection) -> LockHolder | None:
    """Find the holder of a lock on a table or view of the warehouse with the oldest transaction."""
    return find_holder(
        connection,
        """
        held.granted and held.pid is distinct from pg_backend_pid() and relkind in ('r', 'p', 'v', 'm')
        and nspname in ('dwh', 'mart', 'audit', 'raw', 'staging')
        """,
    )


# Locks of prepared transactions have no pid, but all those of one have the same virtual transaction.
PREPARED = """
    select own.virtualtransaction, prepared.gid, prepared.owner::text as owner, prepared.prepared as since
    from pg_prepared_xacts as prepared
    inner join pg_locks as own
        on own.locktype = 'transactionid' and own.transactionid = prepared.transaction and own.pid is null
        and own.granted
"""

_HOLDER = f"""
    select
        format('%%I.%%I', nspname, relname) as relation, held.pid, prepared.gid as prepared,
        coalesce(usename::text, prepared.owner) as user, nullif(application_name, '') as application,
        coalesce(xact_start, prepared.since) as since, state, query, pg_blocking_pids(held.pid) as waits_for
    from pg_locks as held
    inner join pg_class on pg_class.oid = held.relation
    inner join pg_namespace on pg_namespace.oid = relnamespace
    left join pg_stat_activity as activity on activity.pid = held.pid
    left join ({PREPARED}) as prepared
        on held.pid is null and prepared.virtualtransaction = held.virtualtransaction
    where held.database = (select oid from pg_database where datname = current_database()) and {{condition}}
    order by
        held.granted desc, coalesce(xact_start, prepared.since), nspname in ('dwh', 'mart') desc, relation
    limit 1
"""


def _shortened(query: str | None) -> str | None:
    """The first words of a statement, without anything that could be a value."""
    words = re.match(r"\s*([a-z]+)(?:\s+([a-z]+)\b)?", query or "", re.IGNORECASE)
    if words is None:
        return None
    first, second = words[1].lower(), (words[2] or "").lower()
    return f"{first} {second} …" if second in _OBJECTS else f"{first} …"
