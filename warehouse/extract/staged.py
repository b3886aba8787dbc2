"""What one run read from a source: its snapshot, and of each table the rows and deleted keys now in staging."""

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
    # Of rows_read: rows that were found by comparing source and mirror.
    rows_found_by_checksum: int = 0
    # What was unusual about it, each in one sentence.
    notes: tuple[str, ...] = ()
    # The position that this batch goes on from.
    before: Watermark | None = None
    # Whether there was a mirror: else all that is known of the table is this batch.
    has_mirror: bool = True
    # What is known of the whole table: all of it was read or compared (complete), parts of it (ranges), what was
    # stamped since the last read (cursor), or it was not read at all in this run (skipped).
    reading: Reading = "complete"
    # Where a backlog is read in several batches, the condition on rows that the next ones read.
    read_up_to: sql.Composable | None = None
    # Rows at the source, where that is known.
    source_rows: int | None = None
    # Order of its keys, where the table is too large to be compared whole in every run.
    key_order: KeyOrder | None = None
    ranges: tuple[VerifiedRange, ...] = ()
    # Rows of these ranges that were compared.
    rows_compared: int = 0
    rotation: Rotation | None = None
    is_rotation_over: bool = False
    counters: SourceCounters | None = None
    # Checksums of all its rows at the source, where they are few; of a large table they are stored alone.
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
    # By entity, the contract of its batch.
    contracts: Mapping[str, Contract]
    # How many of a dimension's or fact's rows may be deleted.
    threshold: DeleteThreshold
    # Whether a full refresh was asked for: then every target is conformed again as a whole.
    is_refresh_requested: bool = False
    limits: ReadLimits = DEFAULT_LIMITS
    # Number of this batch in its run of `dwh live`; a scheduled run publishes one batch, without a number.
    batch: int | None = None

    @property
    def rows_read(self) -> int:
        return sum(table.rows_read for table in self.tables)

    @property
    def is_replay(self) -> bool:
        """Whether these are rows that waited in the warehouse, and nothing of the source was read."""
        return False

    @property
    def complete_at(self) -> datetime:
        """As of when the source was read: tables that were skipped, or not read to the end, were read before."""
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
