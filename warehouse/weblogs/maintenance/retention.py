"""Retention: requests older than the settings allow are removed, and nothing that stays is written anew."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
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
from warehouse.weblogs.maintenance.reclassify import QUERIES, drop_zeros, recount_users
from warehouse.weblogs.storage.aggregates import add_staged, clear_staged
from warehouse.weblogs.storage.partitions import Leaf, Partitions

# A run that would remove a larger share of all requests waits for a person.
_BRAKE_SHARE = 0.5
# Deleted in one transaction, in partitions that also hold what stays.
_BATCH_ROWS = 500_000
# A partition is dropped when its country's readers let go of it for a moment.
_PATIENCE, _ATTEMPTS, _PAUSE_SECONDS = "2s", 5, 3.0

# Rows of a batch that were deleted.
GONE = sql.Identifier("staging", "weblog_deleted")
# What goes, counted from the partition or batch {gone}, as the negative of what a load would have added.
_COUNTS = {
    "country": sql.SQL("select country, -count(*) from {gone} group by country"),
    "device": sql.SQL("select device_key, -count(*) from {gone} group by device_key"),
    "country_product": sql.SQL(
        "select gone.country, request.product_id, -count(*) from {gone} as gone "
        "join dwh.dim_request as request using (request_key) "
        "where request.action = 'view' and request.product_id is not null group by 1, 2"
    ),
    "day": sql.SQL(
        "select (gone.requested_at at time zone 'UTC')::date, request.action, -count(*) from {gone} as gone "
        "join dwh.dim_request as request using (request_key) group by 1, 2"
    ),
}


@dataclass(frozen=True)
class Removed:
    """What retention removed: requests before `cutoff` (UTC; None where no retention is set), and whole partitions."""

    cutoff: date | None
    rows: int
    partitions: int
    seconds: float

    def __str__(self) -> str:
        if self.cutoff is None:
            return "DWH_WEBLOG_RETENTION_DAYS is not set: nothing is removed"
        said = f"{self.rows:,} requests before {self.cutoff} removed"
        dropped = f", {self.partitions:,} partitions whole" if self.partitions else ""
        return f"dwh.fact_weblog: {said}{dropped} in {self.seconds:.2f} s"


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

    Partitions that are wholly older are dropped; of others old rows are deleted in batches. Each step is a transaction,
    with the aggregates and the counts of its files; loads take turns with steps. `progress` is told partition and rows.

    Raises:
        DeleteThresholdExceeded: it would remove more than half of all requests, and nobody has confirmed that.
        LockHeld: loads or readers do not let go.
    """
    started = time.perf_counter()
    if settings.weblog_retention_days is None:
        return Removed(None, 0, 0, 0.0)
    with connect(
        run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: web logs"
    ) as connection:
        connection.execute("select set_config('dwh.run_id', %s, false)", [str(run.run_id)])
        # Whether a partition has old rows at all is told by its BRIN index, without reading the others.
        connection.execute("set enable_seqscan = off")
        cutoff = _cutoff(connection, settings.weblog_retention_days)
        if not confirm_deletes:
            _brake(connection, cutoff, settings.weblog_retention_days)
        work = _Retention(connection, run, cutoff, batch_rows, wait_seconds, progress)
        rows, partitions = work.remove()
    return Removed(cutoff, rows, partitions, time.perf_counter() - started)


def _cutoff(connection: psycopg.Connection, days: int) -> date:
    row = connection.execute(
        "select (clock_timestamp() at time zone 'UTC')::date - %s::integer", [days]
    ).fetchone()
    assert row is not None
    cutoff: date = row[0]
    return cutoff


def _brake(connection: psycopg.Connection, cutoff: date, days: int) -> None:
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
    if old > every * _BRAKE_SHARE:
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
        """Rows removed, and partitions dropped."""
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
        with self._held():
            # What came meanwhile: only when no old row is left is a pair that was not seen since gone as well.
            for leaf in self._leaves():
                while count := self._transaction(self._delete, leaf):
                    rows += count
            recount_users(self._connection)
            with self._connection.transaction():
                self._connection.execute(
                    "select set_config('dwh.cutoff', %s, true)", [self._cutoff.isoformat()]
                )
                for name in ("country", "device"):
                    self._connection.execute(
                        (QUERIES / f"weblog_users_not_seen_since_{name}.sql").read_bytes()
                    )
                drop_zeros(self._connection)
        return rows, partitions

    def _leaves(self) -> list[Leaf]:
        """Partitions that may hold old rows."""
        leaves = [leaf for leaves in Partitions(self._connection).leaves.values() for leaf in leaves]
        return [leaf for leaf in leaves if leaf.low is None or leaf.low < self._cutoff]

    def _held(self) -> AbstractContextManager[None]:
        return session_lock(self._connection, FEED, wait_seconds=self._wait_seconds)

    def _step(self, act: Callable[[Leaf], int], leaf: Leaf) -> int:
        with self._held():
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
        """Drop a partition of which every row is old."""
        count = self._subtract(leaf.table)
        for attempt in range(_ATTEMPTS):
            try:
                with self._connection.transaction():
                    self._connection.execute("select set_config('lock_timeout', %s, true)", [_PATIENCE])
                    self._connection.execute(sql.SQL("drop table {}").format(leaf.table))
                return count
            except psycopg.errors.LockNotAvailable:
                # Who waits for a table keeps all later readers waiting as well.
                if attempt + 1 < _ATTEMPTS:
                    time.sleep(_PAUSE_SECONDS)
        raise LockHeld(
            f"dwh.{leaf.name} is old and to be dropped, but is being read all the time.",
            hint="What was removed before stays removed; run it again when nobody reads that country for long.",
        )

    def _delete(self, leaf: Leaf) -> int:
        """Delete a batch of old rows of a partition that also holds others."""
        self._connection.execute(sql.SQL("truncate {}").format(GONE))
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
                gone=GONE,
                cutoff=sql.Literal(self._cutoff.isoformat()),
                most=sql.Literal(self._batch_rows),
            )
        ).rowcount
        if count:
            self._subtract(GONE)
        return count

    def _subtract(self, gone: sql.Identifier) -> int:
        """Take the rows of a table out of the aggregates and of what their files have; how many they are."""
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
        """One row of audit.load for the whole run, always as far as it is committed."""
        added = self._connection.execute(
            """
            update audit.load
            set rows_deleted = rows_deleted + %s, seconds = seconds + %s, loaded_at = clock_timestamp()
            where run_id = %s and source = %s
            """,
            [count, seconds, self._run.run_id, FEED],
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


def subtract(connection: psycopg.Connection, gone: sql.Identifier) -> None:
    """Take the rows of a table out of the aggregates, but for their users."""
    clear_staged(connection)
    for name, counts in _COUNTS.items():
        staged = sql.Identifier("staging", f"weblog_{name}")
        connection.execute(sql.SQL("insert into {} ").format(staged) + counts.format(gone=gone))
    add_staged(connection)
