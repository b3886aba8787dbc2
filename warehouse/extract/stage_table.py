"""Stage one table: copy the rows that may have changed, compare all of it or the next ranges of its keys."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from warehouse.errors import counted
from warehouse.extract.access_paths import AccessPaths
from warehouse.extract.checksum_store import Digest, store_checksums, stored_checksums
from warehouse.extract.checksums import hashing
from warehouse.extract.copy_rows import copy_rows, explain_values
from warehouse.extract.cursor_window import CLOCK_UNKNOWN, SourceClock, changed_by_cursor
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.drift import Drift
from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.extract.key_ranges import (
    KeyRange,
    Pace,
    choose_ranges,
    last_verification,
    read_ranges,
    touched_ranges,
)
from warehouse.extract.limits import ReadLimits
from warehouse.extract.range_cuts import split_grown
from warehouse.extract.range_verification import RangeVerifier
from warehouse.extract.reading import Reading, choose_reading
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import batch_table
from warehouse.extract.table_catalog import TableCatalog
from warehouse.extract.table_scan import MOST_PLACES, SourceChecksums, compare_all, scan_once
from warehouse.extract.watermark import (
    Rotation,
    Watermark,
    Window,
    changed_since,
    find_window,
    unexplained_changes,
)
from warehouse.sources.source import Table

# If no batch explains changes of more than this share of a table's rows, the table is verified sooner.
HURRY_ABOVE = 0.01
# Number of a batch's keys that are looked up to find the ranges that it touches.
TOUCHED_SAMPLE = 1000


@dataclass(frozen=True)
class TableState:
    """What source and warehouse know of a table before its rows are read."""

    table: Table
    catalog: TableCatalog
    # Its watermark, as the last published run has left it.
    before: Watermark | None
    # Whether its last cursor value says nothing of the next read, see `outdated_cursors`.
    has_outdated_cursor: bool
    is_small: bool
    # For a table that is not small.
    paths: AccessPaths
    # For a small table: the checksums to which the last run verified the mirror, if they are known.
    verified: Digest | None


@dataclass
class TableStager:
    """Stages one table of a source from the snapshot of `reader`."""

    reader: psycopg.Connection
    writer: psycopg.Connection
    state: TableState
    snapshot: Snapshot
    limits: ReadLimits
    threshold: DeleteThreshold
    full_refresh: bool
    # Called with a first batch as soon as it is copied: the comparison adds no rows to it.
    on_copied: Callable[[StagedTable], None]
    progress: Callable[[str], None]

    @property
    def table(self) -> Table:
        return self.state.table

    def stage(self) -> StagedTable:
        """Copy changed rows and find deletes; verdicts on key ranges are published with them, or not at all."""
        # Around the comparison, too, which reads values as well.
        with explain_values(self.table):
            staged = self._stage()
        self.progress(f"{self.table.name}: {counted(staged.rows_read, 'row')} staged")
        return staged

    def _stage(self) -> StagedTable:
        self._started, self._scanned_seconds = time.monotonic(), 0.0
        drift = self.state.catalog.drift
        self._has_transaction_ids = self.state.catalog.has_transaction_ids
        self._columns, self._identity = drift.columns, self.state.catalog.identity
        window = self._find_window(drift)
        self._notes: list[str] = []
        for message in (*drift.messages, *window.notes):
            self._note(message)
        self._order: KeyOrder | None = None
        ranges: list[KeyRange] = []
        reading = Reading("scan")
        # Also for a table that was never read: it may turn out to be large.
        if not self.state.is_small:
            self._order = self.state.paths.key_order
            if self._order is not None and window.watermark is not None:
                ranges = read_ranges(self.writer, self.table, self._order)
            reading = choose_reading(
                self.table,
                window,
                self.state.paths,
                self.limits,
                self.snapshot.taken_at,
                has_ranges=bool(ranges),
            )
        if reading.note:
            self._note(reading.note)
        if reading.way == "skip":
            return self._skipped(window)
        if reading.way == "cursor":
            assert window.watermark is not None
            clock = SourceClock.of(self.writer, self.table, self._columns, self.snapshot, window.watermark)
            if clock is not None:
                return self._stage_by_cursor(window.watermark, clock, ranges)
            self._note(f"{CLOCK_UNKNOWN}, so that all rows are looked at")
        return self._stage_by_scan(window)

    def _find_window(self, drift: Drift) -> Window:
        window = find_window(
            self.table,
            self.state.before,
            self.snapshot,
            self._identity,
            full_refresh=self.full_refresh or drift.needs_full_refresh,
        )
        if window.watermark is None or not self.state.has_outdated_cursor:
            return window
        return replace(window, watermark=replace(window.watermark, cursor_value=None))

    def _stage_by_scan(self, window: Window) -> StagedTable:
        """Look at every row: copy those of newer transactions, and compare all."""
        watermark = window.watermark
        where = changed_since(watermark, self.snapshot.xmin, new_relations=window.new_relations)
        if watermark is not None and not self._has_transaction_ids:
            # Rows of a view have no xmin: the checksums show which have changed.
            where = sql.SQL("false")
        scanned = self._scan_once(window, where)
        rows_read = sum(map(self._copy_without_scan, scanned.changed)) if scanned else self._copy_rows(where)
        copied = time.monotonic()
        # Not for a mirror without a watermark: only the comparison finds which of its rows were deleted.
        if self.state.before is None and not self.state.catalog.mirror.exists:
            self.on_copied(self._staged(watermark, rows_read, 0, copied))
        compared = compare_all(
            self.reader,
            self.writer,
            self.table,
            self._columns,
            self.state.catalog.mirror,
            where,
            rows_read,
            is_full=watermark is None,
            verified=self._verified(watermark),
            scanned=scanned,
        )
        if not self.state.is_small:
            # Store them now, so that this process need not keep those of all large tables in memory.
            store_checksums(self.writer, self.snapshot.taken_at, [compared.digest])
        rows_found = compared.rows_found
        if rows_found and self._has_transaction_ids:
            self._note(f"{rows_found:,} rows that no newer transaction wrote were found by their checksums")
        return replace(
            self._staged(watermark, rows_read + rows_found, compared.rows_deleted, copied),
            rows_found_by_checksum=rows_found if self._has_transaction_ids else 0,
            source_rows=compared.source_rows,
            rows_compared=compared.source_rows,
            rotation=Rotation(self.snapshot.taken_at),
            digest=compared.digest if self.state.is_small else None,
        )

    def _verified(self, watermark: Watermark | None) -> Digest | None:
        """Return the checksums to which the last run verified the mirror; None if they are not known."""
        if watermark is None:
            return None
        if self.state.is_small:
            return self.state.verified
        moment = {self.table: (watermark.captured_at, self._columns)}
        return stored_checksums(self.writer, moment, if_verified=True).get(self.table)

    def _scan_once(self, window: Window, has_changed: sql.Composable) -> SourceChecksums | None:
        """Find changed rows and compute checksums in one scan; None if that is impossible."""
        # A ctid identifies a row only within one relation.
        if (
            window.watermark is None
            or window.is_rewritten
            or not self._has_transaction_ids
            or len(self._identity.relations) != 1
            or self._may_have_many_changes(window.watermark)
        ):
            return None
        started = time.monotonic()
        scanned = scan_once(
            self.reader,
            self.table,
            self._columns,
            has_changed,
            self.state.catalog.mirror.rows,
            hashing(self.reader, self.writer),
        )
        self._scanned_seconds = time.monotonic() - started
        return scanned

    def _may_have_many_changes(self, watermark: Watermark) -> bool:
        """Whether the source has counted more changes than the places (ctid) that a scan may collect."""
        return unexplained_changes(watermark, self.state.catalog.counters.changes, 0) > MOST_PLACES

    def _stage_by_cursor(
        self, watermark: Watermark, clock: SourceClock, ranges: Sequence[KeyRange]
    ) -> StagedTable:
        """Copy the rows stamped since the last read, and verify the next key ranges."""
        if clock.set_back:
            self._note(
                f"the source's clock was set back by about {clock.set_back}: rows are read from then on"
            )
        self.reader.execute("set local enable_seqscan = off")
        where = changed_by_cursor(self.reader, self.table, self._columns, watermark, clock)
        rows_read = self._copy_without_scan(where)
        copied = time.monotonic()
        rotation = watermark.rotation or Rotation(watermark.complete_at)
        if self._order is None or not ranges:
            return replace(self._staged(watermark, rows_read, 0, copied), reading="ranges", rotation=rotation)
        verifier = RangeVerifier(
            self.reader, self.writer, self.table, self._columns, self._order, where, rotation
        )
        ranges, splits = split_grown(
            self.writer, self.table, self._order, ranges, rows_read, self.limits.range_rows
        )
        touched: Collection[Bound] = ()
        if rows_read:
            touched = touched_ranges(
                self.writer, self._order, ranges, batch_table(self.table), sample=TOUCHED_SAMPLE
            )
        self._verify_ranges(verifier, watermark, ranges, touched, rows_read)
        if verifier.rows_found:
            self._note(
                f"{verifier.rows_found:,} rows that the cursor did not show were found by verification"
            )
        ages = (self.snapshot.taken_at if one.low in verifier.verified else one.age_key for one in ranges)
        oldest = min(ages)
        self.progress(
            f"{self.table.name}: {verifier.rows_expected:,} rows in {len(verifier.verified):,} of {len(ranges):,} "
            f"ranges verified; every row is since {oldest:%Y-%m-%d %H:%M:%S} UTC"
        )
        return replace(
            self._staged(watermark, rows_read + verifier.rows_found, verifier.rows_deleted, copied),
            reading="ranges",
            rows_found_by_checksum=verifier.rows_found,
            ranges=tuple(verifier.verified[one.low] for one in ranges if one.low in verifier.verified),
            range_splits=splits,
            rows_compared=verifier.rows_expected,
            rotation=verifier.rotation,
            is_rotation_over=oldest > rotation.started_at,
        )

    def _verify_ranges(
        self,
        verifier: RangeVerifier,
        watermark: Watermark,
        ranges: Sequence[KeyRange],
        touched: Collection[Bound],
        rows_read: int,
    ) -> None:
        # Batches of `dwh live` move the watermark and verify nothing; a reconcile moves times of ranges.
        last = last_verification(self.writer, self.table, self.snapshot.taken_at) or watermark.captured_at
        elapsed = self.snapshot.taken_at - min(watermark.captured_at, last)
        rows = sum(one.row_count for one in ranges)
        changes = self.state.catalog.counters.changes
        chosen = choose_ranges(
            ranges,
            touched,
            Pace(rows, elapsed, self.limits.verify_within, self.snapshot.taken_at),
            self.limits.range_rows,
            is_hurried=unexplained_changes(watermark, changes, rows_read) > HURRY_ABOVE * rows,
        )
        unconfirmed = replace(self.threshold, is_confirmed=False)

        def are_too_many() -> bool:
            rotation = verifier.rotation
            return unconfirmed.is_exceeded_in_part(
                verifier.rows_deleted, verifier.rows_expected
            ) or unconfirmed.is_exceeded_in_part(rotation.rows_deleted, rotation.rows_verified)

        verifier.verify(chosen)
        verifier.verify_beyond(ranges, are_too_many)
        if are_too_many() and self.threshold.is_confirmed:
            # Verify the rest now, so that the deletes are confirmed once, not once for each slice of the table.
            verifier.verify([(one, "oldest") for one in ranges if one.low not in verifier.verified])
        verifier.close()

    def _copy_without_scan(self, where: sql.Composable) -> int:
        """Copy rows by an index or by their places (ctid), even where the planner's estimate favours a scan."""
        self.reader.execute("set local enable_seqscan = off")
        rows = self._copy_rows(where)
        self.reader.execute("set local enable_seqscan to default")
        return rows

    def _copy_rows(self, where: sql.Composable) -> int:
        return copy_rows(self.reader, self.writer, self.table, self._columns, where, self._note)

    def _skipped(self, window: Window) -> StagedTable:
        return replace(self._staged(window.watermark, 0, 0, time.monotonic()), reading="skipped")

    def _staged(
        self, watermark: Watermark | None, rows_read: int, rows_deleted: int, copied: float
    ) -> StagedTable:
        return StagedTable(
            self.table,
            self._columns,
            self.state.catalog.comment,
            full_refresh=watermark is None,
            window_low=watermark.cursor_value if watermark else None,
            rows_read=rows_read,
            rows_deleted=rows_deleted,
            copy_seconds=copied - self._started - self._scanned_seconds,
            scan_seconds=time.monotonic() - copied + self._scanned_seconds,
            hashing=hashing(self.reader, self.writer),
            identity=self._identity,
            notes=tuple(self._notes),
            before=self.state.before,
            has_mirror=self.state.catalog.mirror.exists,
            key_order=self._order,
        )

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self.progress(f"{self.table.name}: {text}")
