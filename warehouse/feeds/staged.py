"""Result of staging a feed: its files with their counts, and the records in staging."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warehouse.extract.staged import Staged
from warehouse.feeds.landing import FeedFile
from warehouse.files.lake import UnreadFile
from warehouse.sources.feed import ColumnType

# Column types by table and column.
Columns = Mapping[str, Mapping[str, ColumnType]]


@dataclass
class FileProgress:
    """A file that this run has read or recognized, with counts of its records."""

    found: FeedFile
    file_id: int
    # Counts of this run: all records, unparseable ones, and those with a later version in the same run.
    records: int = 0
    unreadable: int = 0
    superseded: int = 0
    quarantined: int = 0
    byte_offset: int = 0
    # Offset of the last record if it is incomplete: the rest may be appended later.
    cut_off_at: int | None = None
    is_array: bool = False
    # The last line of the records that were read before, in the earlier content with which the file begins.
    known_until: int = 0
    fault: str | None = None
    format: str | None = None


@dataclass(frozen=True)
class FieldSeen:
    """A field of a feed's records, with the type of its values and the number of records."""

    table_name: str
    name: str
    type: str
    is_declared: bool
    records: int


@dataclass(frozen=True)
class StagedFeed(Staged):
    """A feed whose records are in staging."""

    files: tuple[FileProgress, ...] = ()
    fields: tuple[FieldSeen, ...] = ()
    unread: tuple[UnreadFile, ...] = ()
    # The replayed quarantine entries, if the records come from there and not from files.
    replayed: tuple[int, ...] = ()
    # The columns of the tables when the records were read, and columns that this run has added or widened.
    columns: Columns = field(default_factory=dict)
    evolved_columns: Columns = field(default_factory=dict)

    @property
    def is_replay(self) -> bool:
        """Whether the records are replayed from quarantine."""
        return bool(self.replayed)
