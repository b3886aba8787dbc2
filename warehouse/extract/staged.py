"""Result of staging a source: its snapshot, and facts about each table's rows and deleted keys in schema staging."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import sql

from warehouse.extract.checksum_store import Digest
from warehouse.extract.checksums import Hashing
from warehouse.extract.column import Column
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.key_order import KeyOrder
from warehouse.extract.key_ranges import VerifiedRange
from warehouse.extract.limits import DEFAULT_LIMITS, ReadLimits
from warehouse.extract.range_cuts import Split
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.source_counters import SourceCounters
from warehouse.extract.table_identity import TableIdentity
from warehouse.extract.watermark import Rotation, Watermark
from warehouse.model.contracts import Contract
from warehouse.sources.source import Entity, Source, Table

Reading = Literal["complete", "ranges", "cursor", "skipped"]


@dataclass(frozen=True)
class StagedTable:
    """What was staged of one table."""

    table: Table
    columns: tuple[Column, ...]
    comment: str | None
    full_refresh: bool
    window_low: str | None
    rows_read: int
    rows_deleted: int
    copy_seconds: float
    scan_seconds: float
    hashing: Hashing
    identity: TableIdentity
    # Part of rows_read: rows that were found by comparing checksums of source and mirror.
    rows_found_by_checksum: int = 0
    # Unusual facts about the read, each in one sentence.
    notes: tuple[str, ...] = ()
    # The watermark from which this batch continues.
    before: Watermark | None = None
    # False if there was no mirror before this batch.
    has_mirror: bool = True
    # complete: all rows were read or compared; ranges: some key ranges were compared; cursor: rows stamped since the
    # last read were read, and nothing was compared; skipped: the table was not read in this run.
    reading: Reading = "complete"
    # If a backlog is read in several batches: the SQL condition on rows of later batches.
    read_up_to: sql.Composable | None = None
    # Rows at the source, where that is known.
    source_rows: int | None = None
    # Order of its keys, where the table is too large to be compared whole in every run.
    key_order: KeyOrder | None = None
    ranges: tuple[VerifiedRange, ...] = ()
    range_splits: tuple[Split, ...] = ()
    # Rows that were compared with the mirror.
    rows_compared: int = 0
    rotation: Rotation | None = None
    is_rotation_over: bool = False
    counters: SourceCounters | None = None
    # Checksums of a small table at the source; those of a large table are only in the checksum store.
    digest: Digest | None = None

    @property
    def cursor_type(self) -> str:
        """Type of the cursor column."""
        return next(column.type for column in self.columns if column.name == self.table.cursor)


@dataclass(frozen=True)
class Staged:
    """What was staged of one source, and the snapshot it was read from."""

    source: Source
    snapshot: Snapshot
    tables: tuple[StagedTable, ...]
    # Contracts of the batches, by entity.
    contracts: Mapping[str, Contract]
    # How many of a dimension's or fact's rows may be deleted.
    threshold: DeleteThreshold
    # True if a full refresh was requested: then all rows of every target are conformed again.
    is_refresh_requested: bool = False
    limits: ReadLimits = DEFAULT_LIMITS
    # Number of this batch in its run of `dwh live`; a scheduled run publishes one batch, without a number.
    batch: int | None = None

    @property
    def rows_read(self) -> int:
        return sum(table.rows_read for table in self.tables)

    @property
    def is_replay(self) -> bool:
        """Whether the rows had been waiting in the warehouse, so that nothing of the source was read."""
        return False

    @property
    def complete_at(self) -> datetime:
        """Time up to which all tables were read; for tables skipped or not read to the end, that of an earlier read."""
        return min(
            one.before.captured_at
            if one.before and (self.is_replay or one.reading == "skipped" or one.read_up_to is not None)
            else self.snapshot.taken_at
            for one in self.tables
        )

    @property
    def full_refresh(self) -> bool:
        """Whether any table was read in full."""
        return any(table.full_refresh for table in self.tables)

    def table_of(self, entity: Entity) -> StagedTable:
        """The staged table whose key is the entity's key."""
        return next(staged for staged in self.tables if staged.table == entity.table)
