"""What one run read of a feed: its files with their counts, and the records that are now in staging."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warehouse.extract.staged import Staged
from warehouse.feeds.landing import FeedFile
from warehouse.files.lake import UnreadFile
from warehouse.sources.feed import ColumnType

# Types by column, by table of a feed.
Columns = Mapping[str, Mapping[str, ColumnType]]


@dataclass
class FileProgress:
    """A file that this run has read, or that it knows again: how many records it has, and what became of them."""

    found: FeedFile
    file_id: int
    # Of this run: all of them; those that cannot be read; those of which it has a later version.
    records: int = 0
    unreadable: int = 0
    superseded: int = 0
    quarantined: int = 0
    byte_offset: int = 0
    # Where its last record begins, if it is cut off: it may go on.
    cut_off_at: int | None = None
    is_array: bool = False
    fault: str | None = None
    format: str | None = None


@dataclass(frozen=True)
class FieldSeen:
    """A field of a feed's records, with the type that its values had."""

    table_name: str
    name: str
    type: str
    is_declared: bool
    records: int


@dataclass(frozen=True)
class StagedFeed(Staged):
    """What was staged of a feed."""

    files: tuple[FileProgress, ...] = ()
    fields: tuple[FieldSeen, ...] = ()
    unread: tuple[UnreadFile, ...] = ()
    # Entries of the quarantine whose records these are, if they are no files'.
    replayed: tuple[int, ...] = ()
    # The columns that the tables had when the records were read, and those that were added or widened then.
    columns: Columns = field(default_factory=dict)
    evolved_columns: Columns = field(default_factory=dict)

    @property
    def is_replay(self) -> bool:
        """Whether no file was read."""
        return bool(self.replayed)
