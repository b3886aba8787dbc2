"""A day of a feed, and what a feed has to tell of its days to take part in calendar and backfill."""

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
    """A day of a feed, as it is loaded.

    loaded: all that there is of it. partial: a part, as the day or a file has not ended. failed: the last try to load
    it failed. missing: nothing of it. stale: what it is made from has changed since.
    """

    feed: str
    day: date
    status: Status
    rows: int | None = None
    loaded_at: datetime | None = None
    message: str | None = None


@dataclass(frozen=True)
class DayLoad:
    """What loading a day anew has brought: rows of the day afterwards, and what there is to say."""

    rows: int
    message: str | None = None


class Dated(Protocol):
    """What has days in the calendar."""

    @property
    def name(self) -> str:
        """What calendar and --only call it."""

    def days(self, connection: psycopg.Connection, first: date, last: date) -> Mapping[date, Partition]:
        """How each day from `first` to `last` is loaded."""


class Feed(Dated, Protocol):
    """What has days that can be loaded anew."""

    def load(self, run: Run, day: date, same_backfill: Collection[int]) -> DayLoad:
        """Load a day anew; `same_backfill` are the runs of this backfill, before it was interrupted, too."""


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`."""
    return [first + DAY * number for number in range((last - first).days + 1)]


def start_of(day: date) -> datetime:
    """Its first moment (UTC)."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
