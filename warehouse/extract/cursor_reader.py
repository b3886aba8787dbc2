"""Poll the hot tables of a source, those whose cursor has an index, over a persistent connection: reads of `dwh live`.

What a scheduled run reads for each table (columns, drift, indexes, identity) is read once, and again when the catalog
of the source or of the warehouse changes; if only watermarks have changed, only these are read. Nothing is scanned and
nothing is verified: a read moves only the position of the cursor.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from warehouse.db.connections import connect_source, transaction_settings
from warehouse.errors import DeclarationError, SchemaDrift
from warehouse.extract.access_paths import read_access_paths
from warehouse.extract.catalog import read_mirrors, source_columns, table_comments
from warehouse.extract.checksums import Hashing, hashing
from warehouse.extract.column import Column
from warehouse.extract.copy_rows import copy_rows
from warehouse.extract.cursor_window import CLOCK_UNKNOWN, SourceClock, outdated_cursors, stamped_since
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.drift import find_drift
from warehouse.extract.limits import ReadLimits
from warehouse.extract.open_transactions import UNREPORTED, OpenTransactions, read_open_transactions
from warehouse.extract.reading import last_open_transactions
from warehouse.extract.snapshot import Snapshot, check_readable, take_snapshot
from warehouse.extract.source_identity import check_same_source
from warehouse.extract.source_locks import lock_tables
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import create_staging, empty_staging
from warehouse.extract.steady_clock import SteadyTime
from warehouse.extract.table_identity import TableIdentity, read_identities
from warehouse.extract.watermark import (
    Watermark,
    find_window,
    read_watermark,
    read_watermarks,
    written_after,
    written_since_read,
)
from warehouse.model.contracts import Contract
from warehouse.sources.source import Source, Table

Progress = Callable[[str], None]

QUESTION_LOCK_SECONDS = 5


@dataclass
class SourceTable:
    """State of a source table, kept until a catalog changes."""

    table: Table
    columns: tuple[Column, ...]
    comment: str | None
    identity: TableIdentity
    hashing: Hashing
    watermark: Watermark | None
    # SQL condition: the row may have been stamped since the watermark. None if only scheduled runs read the table.
    stamped: sql.Composable | None = None
    # The source's clock for which `stamped` was computed.
    clock: SourceClock | None = None
    # How far a backlog has been read that takes several batches.
    resume: "Resume | None" = None
    # Last snapshot, as text, of which all rows are published.
    seen: str | None = None
    # True once `stage` has created its staging tables, which only the holder of the source's lock may do.
    has_staging: bool = False

    @property
    def condition(self) -> sql.Composable:
        """SQL condition on a row that is still to be read."""
        assert self.stamped is not None and self.watermark is not None
        written = written_since_read(self.watermark) if self.seen is None else written_after(self.seen)
        if self.resume is None:
            return sql.SQL("({} and {})").format(self.stamped, written)
        return sql.SQL("({} and {} and ({} or {}))").format(
            self.stamped, written, self.resume.is_after, self.resume.is_newer
        )


@dataclass(frozen=True)
class Resume:
    """How far a table's backlog was read. To be read are rows stamped later, and rows written since that snapshot."""

    is_after: sql.Composable
    is_newer: sql.Composable


@dataclass(frozen=True)
class BatchLimits:
    """Approximate size of a batch; a larger backlog is read in several batches."""

    rows: int = 20_000
    bytes: int = 64 * 1024 * 1024


@dataclass
class CursorReader:
    """Reads the hot tables of one source."""

    source: Source
    url: str
    contracts: Mapping[str, Contract]
    limits: ReadLimits
    threshold: DeleteThreshold
    batch_limits: BatchLimits = BatchLimits()
    lock_wait_seconds: float = 60
    progress: Progress = lambda _: None
    tables: dict[Table, SourceTable] = field(default_factory=dict)
    # Why a table, by its name, is read by scheduled runs only.
    left_out: dict[str, str] = field(default_factory=dict)
    # Snapshot of the last poll, as text: as long as it is the same, no transaction has ended.
    snapshot: str | None = None
    _connection: psycopg.Connection | None = None
    _settings: sql.Composed = field(init=False)
    _catalog: str | None = None
    _warehouse_catalog: str | None = None
    # Whether a run may have left rows in the staging tables.
    _has_leftovers: bool = False
    _snapshot: str | None = None

    def close(self) -> None:
        """Close the connection to the source; the next poll opens another.

        The catalogs are read again then: the staging tables that a failed batch created were rolled back.
        """
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection, self._snapshot = None, None
        self._catalog, self._warehouse_catalog = None, None

    @property
    def connection(self) -> psycopg.Connection:
        """The connection to the source, opened if there is none."""
        if self._connection is None or self._connection.closed:
            self._connection = connect_source(self.source.name, self.url, application_name="dwh capture live")
            self._settings = transaction_settings(self._connection)
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            self._snapshot = None
        return self._connection

    @property
    def hot(self) -> list[SourceTable]:
        """Tables that are read by their cursor."""
        return [one for one in self.tables.values() if one.stamped is not None]

    def find_tables(self, writer: psycopg.Connection) -> bool:
        """Read the watermarks, and find which tables are hot and why others are not. The tables' definitions are read
        only if the catalog of source or warehouse has changed since the last call. Returns True if neither has.

        Raises:
            SourceChanged: the source is another database than the one that was read last.
            SourceError, DeclarationError, SchemaDrift: a table cannot be read as it is declared.
        """
        before = self._catalog, self._warehouse_catalog
        self._catalog, self._snapshot, self._has_leftovers = None, None, True
        with self.connection.transaction():
            self._begin()
            snapshot = take_snapshot(self.connection, self.source.name, None)
            catalog = self._read_catalog()
            (warehouse_catalog,) = writer.execute(_WAREHOUSE_CATALOG).fetchone() or (None,)
            is_unchanged = before == (catalog, warehouse_catalog)
            hot = {one.table: one for one in self.hot} if is_unchanged else {}
            watermarks = read_watermarks(writer, self.source.name, self.source.tables)
            self.left_out.clear()
            self.tables = {
                table: self._find_table(writer, table, snapshot, watermarks.get(table), hot.get(table))
                for table in _parents_first(self.source)
            }
            self._catalog, self._warehouse_catalog = catalog, warehouse_catalog
        return is_unchanged

    def has_moved(self) -> bool:
        """Ask the source, in one round trip, whether any hot table has rows to be read.

        If no transaction of the whole cluster has ended since the last call, no table is read.

        Raises:
            psycopg.errors.LockNotAvailable: another session locked a table for longer than QUESTION_LOCK_SECONDS.
        """
        if not self.hot:
            return False
        reader = self.connection
        cursor = reader.execute(
            sql.SQL(
                # One transaction of several statements, in one round trip. Its settings have ended when the answer is
                # read: only in JSON does a time have a format that no setting changes.
                "{settings}; set local lock_timeout = {wait}; set local enable_seqscan = off; "
                "select snapshot, case when snapshot = {known} then false else {any} end, "
                "to_json(clock_timestamp()) from (select pg_current_snapshot()::text as snapshot) as present"
            ).format(
                settings=self._settings,
                wait=sql.Literal(f"{QUESTION_LOCK_SECONDS}s"),
                known=sql.Literal(self._snapshot),
                any=sql.SQL(" or ").join(map(_has_rows, self.hot)),
            )
        )
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        self.snapshot, has_moved, asked_at = row
        if self._is_clock_set_back(datetime.fromisoformat(asked_at)):
            self._snapshot = None
            return self.has_moved()
        # The next call must find these rows again, until they are published.
        self._snapshot = None if has_moved else self.snapshot
        for one in () if has_moved else self.hot:
            one.seen = self.snapshot
        return bool(has_moved)

    def stage(self, writer: psycopg.Connection, batch: int) -> Staged | None:
        """Copy the rows stamped since the last read into schema staging, in the transaction of `writer`.

        The caller must hold the source's lock. Returns None if the source's catalog has changed since `find_tables`:
        call that again.
        """
        reader = self.connection
        before = last_open_transactions({one.table: one.watermark for one in self.tables.values()})
        with reader.transaction():
            reader.execute(self._settings)
            open_transactions = read_open_transactions(reader, before, self.limits.late_commit_window)
        with reader.transaction():
            self._begin()
            snapshot = take_snapshot(reader, self.source.name, open_transactions)
            if self._read_catalog() != self._catalog:
                return None
            identities = [one.watermark.source for one in self.tables.values() if one.watermark]
            for identity in identities:
                check_same_source(self.source.name, identity, snapshot.identity)
            return Staged(
                self.source,
                snapshot,
                tuple(self._stage_tables(writer)),
                self.contracts,
                self.threshold,
                limits=self.limits,
                batch=batch,
            )

    def moved(self, writer: psycopg.Connection, staged: Staged) -> None:
        """Move the positions of the tables to the end of `staged`, which has been published."""
        assert staged.snapshot.open_transactions is not None
        seen = staged.snapshot.open_transactions.snapshot
        assert seen is not None
        for one in staged.tables:
            held = self.tables[one.table]
            if one.reading == "cursor" and one.read_up_to is None:
                held.seen, held.resume = seen, None
            if not one.rows_read:
                continue
            held.watermark = read_watermark(writer, one.table)
            assert held.watermark is not None
            if one.read_up_to is None:
                assert held.clock is not None
                clock = replace(held.clock, set_back=timedelta(0), utc_offset=staged.snapshot.utc_offset)
                self._begin_window(held, clock)
            else:
                held.resume = Resume(one.read_up_to, written_after(seen))

    def _is_clock_set_back(self, asked_at: datetime) -> bool:
        """Check whether the source's clock was set back since the last read, and begin the windows earlier if so."""
        present = OpenTransactions(asked_at, asked_at, {}, SteadyTime.now())
        is_set_back = False
        for one in self.hot:
            assert one.clock is not None and one.watermark is not None and one.watermark.open_transactions
            set_back = present.set_back_since(one.watermark.open_transactions)
            if set_back is None:
                one.stamped, self.left_out[one.table.name] = None, CLOCK_UNKNOWN
            elif set_back > one.clock.set_back + UNREPORTED:
                self._begin_window(one, replace(one.clock, set_back=set_back))
                is_set_back = True
        return is_set_back

    def _begin_window(self, one: SourceTable, clock: SourceClock) -> None:
        """Compute again from which stamp on a table is read."""
        assert one.watermark is not None
        reader = self.connection
        with reader.transaction():
            reader.execute(self._settings)
            reader.execute("set local enable_seqscan = off")
            one.clock = clock
            one.stamped = stamped_since(reader, one.table, one.columns, one.watermark, clock)

    def _begin(self) -> None:
        reader = self.connection
        reader.execute(self._settings)
        lock_tables(
            reader, self.source.name, self.url, self.source.tables, self.lock_wait_seconds, self.progress
        )
        # Use one process of the source's server, and read only by an index.
        reader.execute("set local max_parallel_workers_per_gather = 0; set local enable_seqscan = off")

    def _find_table(
        self,
        writer: psycopg.Connection,
        table: Table,
        snapshot: Snapshot,
        watermark: Watermark | None,
        previous: SourceTable | None,
    ) -> SourceTable:
        """Read the state of a table, and whether it is hot; of a `previous` state, only the position is replaced."""
        reader = self.connection
        state = (
            replace(previous, watermark=watermark, stamped=None, resume=None, seen=None)
            if previous is not None
            else SourceTable(
                table,
                source_columns(reader, table),
                table_comments(reader, [table])[0],
                read_identities(reader, [table])[0],
                hashing(reader, writer),
                watermark,
            )
        )
        has_transaction_ids = previous is not None or check_readable(reader, table)

        def skip(reason: str) -> SourceTable:
            self.left_out[table.name] = reason
            return state

        if watermark is None or watermark.open_transactions is None:
            return skip("no run has read it yet")
        check_same_source(self.source.name, watermark.source, snapshot.identity)
        if previous is None:
            try:
                drift = find_drift(read_mirrors(writer, [table])[0], table, state.columns)
            except (SchemaDrift, DeclarationError) as error:
                return skip(error.what)
            if drift.needs_full_refresh:
                return skip("; ".join(drift.messages) or "its mirror does not exist")
            state.columns = drift.columns
        window = find_window(table, watermark, snapshot, state.identity, full_refresh=False)
        if window.watermark is None or window.new_relations or window.is_rewritten:
            return skip("; ".join(window.notes) or "its rows are stored elsewhere than at the last run")
        if previous is None and not (
            has_transaction_ids
            and read_access_paths(reader, writer, {table: state.columns})[table].has_cursor_index
        ):
            return skip(f"no index begins with {table.cursor}" if table.cursor else "it has no cursor")
        state.clock = SourceClock.of(writer, table, state.columns, snapshot, window.watermark)
        if state.clock is None:
            return skip(CLOCK_UNKNOWN)
        position = window.watermark
        if outdated_cursors(writer, {table: position}, {table: state.columns}, snapshot):
            position = replace(position, cursor_value=None)
        state.stamped = stamped_since(reader, table, state.columns, position, state.clock)
        return state

    def _stage_tables(self, writer: psycopg.Connection) -> Sequence[StagedTable]:
        rows_left, bytes_left = self.batch_limits.rows, self.batch_limits.bytes
        moved = self._find_moved()
        if self._has_leftovers:
            empty_staging(writer, *(one.table for one in self.tables.values() if one.has_staging))
            self._has_leftovers = False
        staged = []
        is_full = False
        for one in self.tables.values():
            started = time.monotonic()
            rows_read, read_up_to = 0, None
            if not one.has_staging:
                create_staging(writer, {one.table: one.columns})
                one.has_staging = True
            is_read = one.stamped is not None and not is_full
            if is_read and one.table in moved:
                read_up_to, is_full, size = self._find_end(one, rows_left, bytes_left)
                where = one.condition
                if read_up_to is not None:
                    where = sql.SQL("{} and not ({})").format(where, read_up_to)
                if size:
                    empty_staging(writer, one.table)
                    rows_read = copy_rows(
                        self.connection, writer, one.table, one.columns, where, self.progress
                    )
                rows_left, bytes_left = rows_left - rows_read, bytes_left - size
            staged.append(
                StagedTable(
                    one.table,
                    one.columns,
                    one.comment,
                    full_refresh=False,
                    window_low=one.watermark.cursor_value if one.watermark else None,
                    rows_read=rows_read,
                    rows_deleted=0,
                    copy_seconds=time.monotonic() - started,
                    scan_seconds=0.0,
                    hashing=one.hashing,
                    identity=one.identity,
                    before=one.watermark,
                    reading="cursor" if is_read else "skipped",
                    read_up_to=read_up_to,
                    rotation=one.watermark.rotation if one.watermark else None,
                )
            )
        return staged

    def _find_moved(self) -> set[Table]:
        """Find the hot tables that have rows to be read."""
        hot = self.hot
        if not hot:
            return set()
        cursor = self.connection.execute(
            sql.SQL("set local enable_seqscan = off; select array[{}]").format(
                sql.SQL(", ").join(map(_has_rows, hot))
            )
        )
        cursor.nextset()
        row = cursor.fetchone()
        assert row is not None
        return {one.table for one, has_rows in zip(hot, row[0], strict=True) if has_rows}

    def _find_end(self, one: SourceTable, rows: int, size: int) -> tuple[sql.Composable | None, bool, int]:
        """Find where this batch ends within the table, if more than `rows` rows or `size` bytes are to be read.

        Returns the SQL condition on the rows of later batches, whether the batch is full, and the approximate bytes of
        the rows that were counted. Rows of one stamp stay in one batch.
        """
        assert one.table.cursor is not None
        names = {
            "cursor": sql.Identifier(one.table.cursor),
            "table": sql.Identifier(*one.table.at_source),
            "where": one.condition,
            "limit": sql.Literal(max(rows, 0) + 1),
            "rows": sql.Literal(rows),
            "bytes": sql.Literal(size),
        }
        row = self.connection.execute(
            sql.SQL(
                """
                select
                    coalesce(sum(size), 0)::bigint, min(stamp) = min(stamp) filter (where {is_over}),
                    (min(stamp) filter (where {is_over}))::text
                from (
                    select
                        stamp, size, row_number() over by_stamp as n,
                        sum(size) over (by_stamp rows unbounded preceding) as bytes
                    from (
                        select {cursor} as stamp, octet_length(source.*::text) as size
                        from {table} as source where {where} order by {cursor} limit {limit}
                    ) as next
                    window by_stamp as (order by stamp)
                ) as counted
                """
            ).format(**names, is_over=sql.SQL("n > {rows} or bytes > {bytes}").format(**names))
        ).fetchone()
        assert row is not None
        total, is_first_stamp, end = row
        if end is None:
            return None, False, total
        (kind,) = (column.type for column in one.columns if column.name == one.table.cursor)
        is_after = sql.SQL("{} {} {}::{}").format(
            names["cursor"], sql.SQL(">" if is_first_stamp else ">="), sql.Literal(end), sql.SQL(kind)
        )
        return is_after, True, total

    def _read_catalog(self) -> str:
        """Return a hash that changes with the definition, privileges, files, indexes or comments of any table."""
        names = list(map(list, zip(*(table.at_source for table in self.source.tables), strict=True)))
        row = self.connection.execute(_CATALOG, names).fetchone()
        assert row is not None
        return str(row[0])


def _has_rows(one: SourceTable) -> sql.Composable:
    """SQL expression: the table has rows to be read."""
    return sql.SQL("exists (select from {} where {})").format(
        sql.Identifier(*one.table.at_source), one.condition
    )


def _parents_first(source: Source) -> list[Table]:
    """Sort the tables of a source so that referenced tables come first: no batch has order lines without the order."""
    depth = dict.fromkeys(source.tables, 0)
    for _ in source.tables:
        for entity in source.entities.values():
            for join in entity.joins:
                parent = entity.tables[join.table]
                if parent != entity.table:
                    depth[entity.table] = max(depth[entity.table], depth[parent] + 1)
    return sorted(source.tables, key=lambda table: depth[table])


_CATALOG = """
    select md5(concat(
        string_agg(
            concat_ws(
                ' ', named.position, class.oid, pg_relation_filenode(class.oid), class.relkind, class.relrowsecurity,
                class.relforcerowsecurity, has_table_privilege(class.oid, 'select'),
                (
                    select string_agg(
                        concat_ws(':', attnum, attname, atttypid, atttypmod, attisdropped, attnotnull), ' '
                        order by attnum
                    )
                    from pg_attribute where attrelid = class.oid and attnum > 0
                ),
                (
                    select string_agg(concat_ws(':', indexrelid, indisvalid, indkey), ' ' order by indexrelid)
                    from pg_index where indrelid = class.oid
                ),
                (
                    select string_agg(concat_ws(':', objsubid, description), ' ' order by objsubid)
                    from pg_description where objoid = class.oid and classoid = 'pg_class'::regclass
                ),
                (
                    select string_agg(concat_ws(':', inhrelid, pg_relation_filenode(inhrelid)), ' ' order by inhrelid)
                    from pg_inherits where inhparent = class.oid
                )
            ),
            ' ' order by named.position
        ),
        (select string_agg(concat_ws(':', oid, enumlabel), ' ' order by oid) from pg_enum)
    ))
    from unnest(%s::text[], %s::text[]) with ordinality as named (schema, name, position)
    left join pg_class as class on class.oid = to_regclass(format('%%I.%%I', named.schema, named.name))
    """

# The same hash for the tables, views and functions by which a batch is published. Tables count by name, since runs
# create staging tables again with other OIDs; views and functions count by the transaction that has written them.
_WAREHOUSE_CATALOG = """
    select md5(concat(
        (
            select string_agg(
                concat_ws(':', nspname, relname, relkind, attname, atttypid, atttypmod, attnotnull), ' '
                order by nspname, relname, attnum
            )
            from pg_class as class
            inner join pg_namespace as namespace on relnamespace = namespace.oid
            inner join pg_attribute on attrelid = class.oid and attnum > 0 and not attisdropped
            where nspname in ('raw', 'staging', 'dwh') and relkind in ('r', 'p', 'v') and not relispartition
        ),
        (
            select string_agg(concat_ws(':', relname, indkey, indisunique, indisvalid), ' ' order by indexrelid)
            from pg_index
            inner join pg_class as class on class.oid = indrelid
            where relnamespace = 'raw'::regnamespace
        ),
        (
            select string_agg(concat_ws(':', ev_class, written.xmin), ' ' order by written.oid)
            from pg_rewrite as written
            inner join pg_class as class on class.oid = ev_class
            where relnamespace <> all('{pg_catalog, information_schema}'::regnamespace[])
        ),
        (
            select string_agg(concat_ws(':', written.oid, written.xmin), ' ' order by written.oid)
            from pg_proc as written
            where pronamespace <> all('{pg_catalog, information_schema}'::regnamespace[])
        )
    ))
    """
