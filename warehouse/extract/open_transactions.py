"""Transactions that are open in a source: rows that they commit later may have been stamped since they began."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import psycopg

from warehouse.db.connections import read_only_transaction
from warehouse.errors import SourceError
from warehouse.extract.steady_clock import SteadyTime

# A transaction takes its start from the clock a moment before the server shows it.
UNREPORTED = timedelta(seconds=1)


@dataclass(frozen=True)
class OpenTransactions:
    """Start times of the open transactions, read before a snapshot is taken.

    Every transaction that the snapshot does not see has begun at or after `since`.
    """

    asked_at: datetime
    # Start of the oldest transaction that has no id yet, or whose start is hidden; `asked_at` if there is none.
    unnumbered_since: datetime
    # Start of each other transaction by its id, including prepared transactions.
    numbered: Mapping[str, datetime]
    # The time of reading by this machine's clocks; None in watermarks from before this was recorded.
    steady: SteadyTime | None = None
    # The snapshot that was taken then (pg_snapshot, as text); None in watermarks from before this was recorded.
    snapshot: str | None = None

    @property
    def since(self) -> datetime:
        """Earliest possible start of any transaction that was open or began later."""
        return min(self.asked_at - UNREPORTED, self.unnumbered_since, *self.numbered.values())

    def set_back_since(self, before: Self) -> timedelta | None:
        """Return how far the source's clock was set back since `before`; None if it was, by an unknown time.

        Transactions that began in between may have stamped rows that much earlier than `before.since`.
        """
        passed = self.asked_at - before.asked_at
        elapsed = self.steady.elapsed_since(before.steady) if self.steady and before.steady else None
        if elapsed is None:
            return None if passed < -UNREPORTED else timedelta(0)
        # `since` already allows for a smaller difference.
        return elapsed - passed + UNREPORTED if elapsed - passed > UNREPORTED else timedelta(0)

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Read what a watermark recorded; None if it was written before this was recorded."""
        if stored is None:
            return None
        starts = {xid: datetime.fromisoformat(start) for xid, start in stored["numbered"].items()}
        asked_at, unnumbered = (
            datetime.fromisoformat(stored[name]) for name in ("asked_at", "unnumbered_since")
        )
        return cls(asked_at, unnumbered, starts, SteadyTime.of(stored.get("steady")), stored.get("snapshot"))

    def stored(self) -> dict[str, Any]:
        """Return the JSON object that a watermark records."""
        return {
            "asked_at": self.asked_at.isoformat(),
            "unnumbered_since": self.unnumbered_since.isoformat(),
            "numbered": {xid: start.isoformat() for xid, start in self.numbered.items()},
            "steady": self.steady.stored() if self.steady else None,
            "snapshot": self.snapshot,
        }


def find_open_transactions(
    source: str, url: str, before: OpenTransactions | None, late_commit_window: timedelta
) -> OpenTransactions:
    """Read which transactions are open in the database of `source`; `before` is the result at the last snapshot.

    If the server hides a session's transaction from this user, it counts as open for `late_commit_window`. A prepared
    transaction is not in pg_stat_activity: its start is taken from `before`; if it is not there, it began after the
    last snapshot, or had no id then.

    Raises:
        SourceError: the server is a standby, which shows none of its primary's transactions. If the URL has several
            hosts, the snapshot may be taken from another one, which is checked, too.
    """
    with read_only_transaction(source, url, application_name="dwh capture transactions") as connection:
        if connection.execute("select where pg_is_in_recovery()").rowcount:
            raise standby_error(source)
        return read_open_transactions(connection, before, late_commit_window)


def standby_error(source: str) -> SourceError:
    """Error for a standby: on it, rows that were committed late cannot be detected."""
    return SourceError(
        f"Source '{source}' is a standby (read replica).",
        hint=f"Point DWH_{source.upper()}_URL at the primary (of several hosts: target_session_attrs=read-write): on a "
        "standby, rows can be missed unnoticed.",
    )


def read_open_transactions(
    connection: psycopg.Connection, before: OpenTransactions | None, late_commit_window: timedelta
) -> OpenTransactions:
    """Do what `find_open_transactions` does, by a connection to the source that has taken no snapshot yet."""
    steady = SteadyTime.now()
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    (asked_at,) = row
    # Read sessions first: a transaction that is prepared in between is then found twice; in the other order, never.
    sessions = connection.execute(
        """
        select
            backend_xid::text,
            -- In a procedure that commits, the statement began before the current transaction.
            least(xact_start, case when backend_type = 'client backend' then greatest(query_start, %s) end)
        from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and usesysid is not null
            and backend_type is distinct from 'autovacuum worker'
            and (
                xact_start is not null or query = '<insufficient privilege>' or state = 'disabled'
                or state = 'active' and backend_type = 'client backend'
            )
            -- Our own sessions: their transactions are read-only.
            and not (application_name like 'dwh capture%%' and usename = session_user)
        """,
        [asked_at - late_commit_window],
    ).fetchall()
    prepared = connection.execute(
        "select transaction::text, prepared from pg_prepared_xacts where database = current_database()"
    ).fetchall()
    hidden_since = asked_at - late_commit_window
    unnumbered = [start or hidden_since for xid, start in sessions if xid is None or start is None]
    numbered = {xid: start for xid, start in sessions if xid is not None and start is not None}
    present = OpenTransactions(asked_at, min(unnumbered, default=asked_at), numbered, steady)
    set_back = present.set_back_since(before) if before else None
    for xid, prepared_at in prepared:
        if before is None:
            start = prepared_at - late_commit_window
        else:
            began = min(before.asked_at - UNREPORTED, before.unnumbered_since)
            start = before.numbered.get(xid) or began - (late_commit_window if set_back is None else set_back)
        numbered.setdefault(xid, start)
    return present
