"""How much of a source one run may read, and how soon every row of it is verified."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from warehouse.settings import Settings


@dataclass(frozen=True)
class ReadLimits:
    """What a run may read of a source, as the settings of the same names say."""

    # Total rows of the smallest tables, which every run scans and verifies completely.
    scan_rows: int = 200_000
    # Within this time every row of the larger tables is verified once.
    verify_within: timedelta = timedelta(hours=24)
    # How long a transaction can have been open if the source hides its start from the user.
    late_commit_window: timedelta = timedelta(hours=1)
    # How often a large table without an index of its cursor is scanned.
    scan_interval: timedelta = timedelta(hours=1)
    # Approximate number of rows of a key range.
    range_rows: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the limits from the settings."""
        return cls(
            settings.scan_rows, settings.verify_within, settings.late_commit_window, settings.scan_interval
        )


DEFAULT_LIMITS = ReadLimits()
