"""Retention: removes requests that are older than DWH_WEBLOG_RETENTION_DAYS, without rewriting those that stay."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import DeleteThresholdExceeded, LockHeld
from warehouse.runs.audit import Load, Run, mark_irreversible, record_load
from warehouse.settings import Settings
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.maintenance.delete_rows import DELETED
from warehouse.weblogs.storage.aggregate_tables import drop_zeros, expire_users, recount_users, subtract
from warehouse.weblogs.storage.partitions import Leaf, Partitions

# A run that would remove a larger share of all requests needs to be confirmed.
_MAX_SHARE = 0.5
# Rows deleted per transaction from partitions that also have newer rows.
_BATCH_ROWS = 500_000
# Dropping a partition waits for its readers: how long, how often, and the pause between attempts.
_LOCK_TIMEOUT, _ATTEMPTS, _PAUSE_SECONDS = "2s", 5, 3.0


@dataclass(frozen=True)
class Removed:
    """What retention removed: requests before `cutoff` (UTC; None if no retention is set), and whole partitions."""

    cutoff: date | None
    rows: int
    partitions: int
    seconds: float

    def __str__(self) -> str:
        if self.cutoff is None:
            return "DWH_WEBLOG_RETENTION_DAYS is not set: nothing is removed"
        text = f"{self.rows:,} requests before {self.cutoff} removed"
        dropped = f", {self.partitions:,} whole partitions" if self.partitions else ""
        return f"dwh.fact_weblog: {text}{dropped} in {self.seconds:.2f} s"


def retain(
    settings: Settings,
    run: Run,
    *,
    confirm_deletes: bool = False,
    progress: Callable[[str, int], None] | None = None,
    wait_seconds: float = 900,
    batch_rows: int = _BATCH_ROWS,
) -> Removed:
    """Remove the requests of days (UTC) before the last DWH_WEBLOG_RETENTION_DAYS.

    Partitions with only older rows are dropped; from others, old rows are deleted in batches. Each step is one
    transaction with aggregates and counts of files; loads can run between steps. `progress` gets partition and rows.

    Raises:
        DeleteThresholdExceeded: it would remove more than half of all requests, and that is not confirmed.
        LockHeld: loads or readers do not end in time.
    """
    started = time.perf_counter()
    if settings.weblog_retention_days is None:
        return Removed(None, 0, 0, 0.0)
    with connect(
        run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: web logs"
    ) as connection:
        connection.execute("select set_config('dwh.run_id', %s, false)", [str(run.run_id)])
        # The BRIN index shows whether a partition has old rows, without a scan.
        connection.execute("set enable_seqscan = off")
        cutoff = _cutoff(connection, settings.weblog_retention_days)
        if not confirm_deletes:
            _check_threshold(connection, cutoff, settings.weblog_retention_days)
        work = _Retention(connection, run, cutoff, batch_rows, wait_seconds, progress)
        rows, partitions = work.remove()
    return Removed(cutoff, rows, partitions, time.perf_counter() - started)


@contextmanager
def retained(
    settings: Settings, run: Run, *, wait_seconds: float = 900, progress: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Apply the retention after the block, which loads whole files again: requests it had removed come back with them.

    If what was there before needs a confirmation to be removed, nothing is removed: that is up to the next retention.
    """
    if settings.weblog_retention_days is None:
        yield
        return
    with connect(run.warehouse_url, autocommit=True) as connection:
        try:
            cutoff = _cutoff(connection, settings.weblog_retention_days)
            _check_threshold(connection, cutoff, settings.weblog_retention_days)
            unconfirmed = None
        except DeleteThresholdExceeded as error:
            unconfirmed = error
    yield
    if unconfirmed is None:
        removed = retain(settings, run, confirm_deletes=True, wait_seconds=wait_seconds)
        message = str(removed) if removed.rows else ""
    else:
        message = f"{unconfirmed.what} {unconfirmed.hint}"
    if message and progress is not None:
        progress(message)


def _cutoff(connection: psycopg.Connection, days: int) -> date:
    row = connection.execute(
        "select (clock_timestamp() at time zone 'UTC')::date - %s::integer", [days]
    ).fetchone()
    assert row is not None
    cutoff: date = row[0]
    return cutoff


def _check_threshold(connection: psycopg.Connection, cutoff: date, days: int) -> None:
    row = connection.execute(
        """
        select
            coalesce(sum(request_count) filter (where request_date < %s), 0)::bigint,
            coalesce(sum(request_count), 0)::bigint
        from dwh.agg_weblog_day
        """,
        [cutoff],
    ).fetchone()
    assert row is not None
    old, every = row
    if old > every * _MAX_SHARE:
        raise DeleteThresholdExceeded(
            f"Keeping {days} days of web logs would remove {old:,} of {every:,} requests, those before {cutoff}.",
            hint="Is DWH_WEBLOG_RETENTION_DAYS right? If so: `dwh run retention --confirm-deletes`.",
        )


class _Retention:
    def __init__(
        self,
        connection: psycopg.Connection,
        run: Run,
        cutoff: date,
        batch_rows: int,
        wait_seconds: float,
        progress: Callable[[str, int], None] | None,
    ) -> None:
        self._connection, self._run, self._cutoff = connection, run, cutoff
        self._batch_rows, self._wait_seconds, self._progress = batch_rows, wait_seconds, progress

    def remove(self) -> tuple[int, int]:
        """Remove all old rows; returns the numbers of rows removed and of partitions dropped."""
        rows = partitions = 0
        for leaf in self._leaves():
            if leaf.high is not None and leaf.high <= self._cutoff:
                rows += self._step(self._drop, leaf)
                partitions += 1
                continue
            while (count := self._step(self._delete, leaf)) > 0:
                rows += count
                if count < self._batch_rows:
                    break
        with self._feed_lock():
            # Delete old rows that were loaded meanwhile: pairs of users can only expire when none is left.
            for leaf in self._leaves():
                while count := self._transaction(self._delete, leaf):
                    rows += count
            with self._connection.transaction():
                recount_users(self._connection)
                expire_users(self._connection, self._cutoff)
                drop_zeros(self._connection)
        return rows, partitions

    def _leaves(self) -> list[Leaf]:
        """List the partitions that may have old rows."""
        leaves = [leaf for leaves in Partitions(self._connection).leaves.values() for leaf in leaves]
        return [leaf for leaf in leaves if leaf.low is None or leaf.low < self._cutoff]

    def _feed_lock(self) -> AbstractContextManager[None]:
        return session_lock(self._connection, FEED, wait_seconds=self._wait_seconds)

    def _step(self, act: Callable[[Leaf], int], leaf: Leaf) -> int:
        with self._feed_lock():
            return self._transaction(act, leaf)

    def _transaction(self, act: Callable[[Leaf], int], leaf: Leaf) -> int:
        started = time.perf_counter()
        with self._connection.transaction():
            count = act(leaf)
            if count:
                self._record(count, time.perf_counter() - started)
        if count and self._progress is not None:
            self._progress(leaf.name, count)
        return count

    def _drop(self, leaf: Leaf) -> int:
        """Drop a partition in which all rows are old."""
        count = self._subtract(leaf.table)
        for attempt in range(_ATTEMPTS):
            try:
                with self._connection.transaction():
                    self._connection.execute("select set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
                    self._connection.execute(sql.SQL("drop table {}").format(leaf.table))
                return count
            except psycopg.errors.LockNotAvailable:
                # Later readers queue behind a waiting DROP: give way to them for a while.
                if attempt + 1 < _ATTEMPTS:
                    time.sleep(_PAUSE_SECONDS)
        raise LockHeld(
            f"dwh.{leaf.name} cannot be dropped: its rows are old, but queries read it all the time.",
            hint="All that was removed before stays removed. Run it again when no long query reads that country.",
        )

    def _delete(self, leaf: Leaf) -> int:
        """Delete a batch of old rows from a partition that also has newer ones."""
        self._connection.execute(sql.SQL("truncate {}").format(DELETED))
        count = self._connection.execute(
            sql.SQL(
                """
                with old as (
                    select ctid from {leaf} where requested_at < {cutoff}::timestamptz limit {most}
                ),
                deleted as (
                    delete from {leaf} as weblog using old where weblog.ctid = old.ctid
                    returning weblog.requested_at, weblog.country, weblog.device_key, weblog.request_key, weblog.file_id
                )
                insert into {gone} (requested_at, country, device_key, request_key, file_id) select * from deleted
                """
            ).format(
                leaf=leaf.table,
                gone=DELETED,
                cutoff=sql.Literal(self._cutoff.isoformat()),
                most=sql.Literal(self._batch_rows),
            )
        ).rowcount
        if count:
            self._subtract(DELETED)
        return count

    def _subtract(self, gone: sql.Identifier) -> int:
        """Subtract the rows of a table from the aggregates and from the counts of their files; returns their number."""
        connection = self._connection
        subtract(connection, gone)
        row = connection.execute(
            sql.SQL(
                """
                with gone as (select file_id, count(*) as row_count from {gone} group by file_id),
                counted as (
                    update audit.file set rows_removed = rows_removed + gone.row_count
                    from gone where file.file_id = gone.file_id
                )
                select coalesce(sum(row_count), 0)::bigint from gone
                """
            ).format(gone=gone)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _record(self, count: int, seconds: float) -> None:
        """Add to the row of audit.load for what the run removes, in the transaction that removes the rows."""
        added = self._connection.execute(
            """
            update audit.load
            set rows_deleted = rows_deleted + %s, seconds = seconds + %s, loaded_at = clock_timestamp()
            where run_id = %s and source = %s and window_low is null and window_high = %s
            """,
            [count, seconds, self._run.run_id, FEED, self._cutoff.isoformat()],
        ).rowcount
        if not added:
            mark_irreversible(self._connection, self._run.run_id)
            load = Load(
                FEED,
                "dwh.fact_weblog",
                window_high=self._cutoff.isoformat(),
                rows_deleted=count,
                seconds=seconds,
            )
            record_load(self._connection, self._run.run_id, load)
