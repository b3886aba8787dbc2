"""What a load of web logs tells: while it runs, and when it is done."""

from dataclasses import dataclass

from warehouse.runs.audit import CheckResult


@dataclass(frozen=True)
class Progress:
    """How far a load is: the file it is at, and lines and bytes read of all files."""

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


@dataclass(frozen=True)
class WeblogLoad:
    """What a load did; `unchanged` counts the files of which everything was loaded before.

    Other loaders were still at the files that `elsewhere` counts when it ended.
    """

    files: tuple[FileLoad, ...]
    unchanged: int
    elsewhere: int
    countries: int
    checks: tuple[CheckResult, ...]
    seconds: float

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
        said = f"{self.lines:,} lines of {len(self.files):,} files: {self.rows_loaded:,} loaded"
        said += f", {self.rows_quarantined:,} quarantined" if self.rows_quarantined else ""
        said += f"; {self.unchanged:,} files unchanged" if self.unchanged else ""
        said += f"; {self.elsewhere:,} left to other loaders, who are at them" if self.elsewhere else ""
        return f"weblogs → dwh.fact_weblog: {said} in {self.seconds:.2f} s"
