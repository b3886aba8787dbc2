"""A day of a source or of the web logs as a partition, and what these implement for calendar and backfill."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Protocol

import psycopg

from warehouse.runs.audit import Run

Status = Literal["loaded", "partial", "failed", "missing", "stale"]
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Partition:
    """A day of a source or of the web logs and how far it is loaded.

    loaded: completely. partial: in part, since the day or a file has not ended. failed: the last load of it failed.
    missing: not at all. stale: its inputs have changed since.
    """

    source: str
    day: date
    status: Status
    rows: int | None = None
    loaded_at: datetime | None = None
    message: str | None = None


@dataclass(frozen=True)
class DayLoad:
    """Result of loading a day again: its rows afterwards, and a message."""

    rows: int
    message: str | None = None


class Dated(Protocol):
    """Something with days in the calendar."""

    @property
    def name(self) -> str:
        """Its name in the calendar and for --only."""

    def days(self, connection: psycopg.Connection, first: date, last: date) -> Mapping[date, Partition]:
        """Return the status of each day from `first` to `last`."""


class DailyLoad(Dated, Protocol):
    """Something whose days can be loaded again."""

    def load(self, run: Run, day: date, same_backfill: Collection[int]) -> DayLoad:
        """Load a day again; `same_backfill` are the runs of this backfill, including those that were interrupted."""


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`."""
    return [first + DAY * number for number in range((last - first).days + 1)]


def start_of(day: date) -> datetime:
    """Its first moment (UTC)."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
