"""How much of a source one run may read, and how soon every row of it is verified."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from warehouse.settings import Settings


@dataclass(frozen=True)
class ReadLimits:
    """What a run may read of a source, as the settings of the same names say."""

    # Rows of the smallest tables together, which every run scans and verifies whole.
    scan_rows: int = 200_000
    # Within this time every row of the larger tables is verified once.
    verify_within: timedelta = timedelta(hours=24)
    # How far back rows can be stamped where the source does not say since when its transactions have been open.
    late_commit_window: timedelta = timedelta(hours=1)
    # How often a large table is scanned that cannot be read by the index of its cursor.
    scan_interval: timedelta = timedelta(hours=1)
    # Rows of a key range, about.
    range_rows: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that are set."""
        return cls(
            settings.scan_rows, settings.verify_within, settings.late_commit_window, settings.scan_interval
        )


DEFAULT_LIMITS = ReadLimits()
