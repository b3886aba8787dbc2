"""Progress and result of a load of web logs."""

from dataclasses import dataclass

from warehouse.errors import counted
from warehouse.files.lake import UnreadFile
from warehouse.runs.audit import CheckResult, Load
from warehouse.weblogs.files.checkpoints import FileProgress


@dataclass(frozen=True)
class Progress:
    """Progress of a load: the file that it reads now, and lines and bytes read of all files."""

    path: str
    file_number: int
    lines: int
    bytes_read: int


@dataclass(frozen=True)
class FileLoad:
    """What a load did with one file."""

    path: str
    file_id: int
    status: str
    lines: int
    rows_loaded: int
    rows_quarantined: int
    message: str | None

    @classmethod
    def of(cls, file: FileProgress, before: "FileLoad | None") -> "FileLoad":
        """Add what a batch has read of a file to what earlier batches of the load have read."""
        counts = file.counts()
        return cls(
            file.file.path,
            file.file_id,
            file.status,
            counts.line_count + (before.lines if before else 0),
            counts.rows_loaded + (before.rows_loaded if before else 0),
            counts.rows_quarantined + (before.rows_quarantined if before else 0),
            file.fault or file.message,
        )


@dataclass(frozen=True)
class WeblogLoad:
    """What a load did; `unchanged` counts the files that had been loaded completely before.

    `claimed_by_others` counts the files that other loaders were still working on.
    """

    files: tuple[FileLoad, ...]
    # Files of the landing folder that are not read.
    unread: tuple[UnreadFile, ...]
    unchanged: int
    claimed_by_others: int
    countries: int
    checks: tuple[CheckResult, ...]
    seconds: float
    # Tables whose texts were derived again first, since their definition has changed.
    rederived: tuple[Load, ...] = ()

    @property
    def lines(self) -> int:
        """Lines read: rows loaded and lines quarantined."""
        return sum(file.lines for file in self.files)

    @property
    def rows_loaded(self) -> int:
        """Lines that became rows."""
        return sum(file.rows_loaded for file in self.files)

    @property
    def rows_quarantined(self) -> int:
        """Lines that went to audit.quarantine."""
        return sum(file.rows_quarantined for file in self.files)

    def __str__(self) -> str:
        text = f"{counted(self.lines, 'line')} of {counted(len(self.files), 'file')}: {self.rows_loaded:,} loaded"
        text += f", {self.rows_quarantined:,} quarantined" if self.rows_quarantined else ""
        text += f"; {counted(self.unchanged, 'file')} unchanged" if self.unchanged else ""
        text += f"; {len(self.unread):,} not read" if self.unread else ""
        text += (
            f"; {self.claimed_by_others:,} left to other loaders, which are working on them"
            if self.claimed_by_others
            else ""
        )
        return f"weblogs → dwh.fact_weblog: {text} in {self.seconds:.2f} s"
