"""What one run read from a source: its snapshot, and of each table the rows and deleted keys now in staging."""

from collections.abc import Mapping
from dataclasses import dataclass

from warehouse.extract.checksums import Hashing
from warehouse.extract.column import Column
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.table_identity import TableIdentity
from warehouse.model.contracts import Contract
from warehouse.sources.declaration import Entity, Source, Table


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
    # Of rows_read: rows that no newer transaction wrote.
    rows_found_by_checksum: int = 0
    # What was unusual about it, each in one sentence.
    notes: tuple[str, ...] = ()

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

    @property
    def rows_read(self) -> int:
        return sum(table.rows_read for table in self.tables)

    @property
    def full_refresh(self) -> bool:
        """Whether any table was read in full."""
        return any(table.full_refresh for table in self.tables)

    def table_of(self, entity: Entity) -> StagedTable:
        """The staged table whose key is the entity's key."""
        return next(staged for staged in self.tables if staged.table == entity.table)
