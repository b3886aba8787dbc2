"""The calendar: which days of each source and of the web logs are loaded, and which a backfill has to load."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import psycopg

from warehouse.backfill.facts import FactDays
from warehouse.backfill.marts import MartDays
from warehouse.backfill.partition import DailyLoad, Dated, Partition
from warehouse.backfill.trail import last_tries
from warehouse.backfill.weblog_days import WeblogDays
from warehouse.errors import WrongParameters
from warehouse.feeds.landing import landed_feeds, landing_folder
from warehouse.settings import Settings
from warehouse.sources.registry import declared_feeds, declared_sources, read_source, sources_with_url

MOST_DAYS = 3660


def daily_loads(settings: Settings, only: str | None = None) -> Sequence[DailyLoad]:
    """Return the sources, and the web logs, whose days can be loaded again, or only the one named `only`.

    Raises:
        WrongParameters: there is no source of that name.
        SettingsError: the source named `only` has no URL.
    """
    sources = [*sources_with_url(settings), *landed_feeds(settings)]
    feeds: list[DailyLoad] = [
        *(FactDays(read_source(name, settings.sources)) for name in sources),
        WeblogDays(settings),
    ]
    if only is None:
        return feeds
    chosen = [feed for feed in feeds if feed.name == only]
    if only in declared_sources(settings.sources) and only not in declared_feeds(settings.sources):
        settings.source_url(only)
    if not chosen and only in declared_feeds(settings.sources):
        folder = landing_folder(settings.lake, read_source(only, settings.sources))
        raise WrongParameters(
            f"Feed '{only}' has no files: {folder} does not exist.",
            hint=f"Put its files there, then `dwh run {only}`.",
        )
    if not chosen:
        raise WrongParameters(
            f"There is no source '{only}'.", hint=f"Choose one of: {', '.join(feed.name for feed in feeds)}."
        )
    return chosen


def ensure_days(first: date, last: date) -> None:
    """Check that these days can be loaded.

    Raises:
        WrongParameters: the range is empty, in the future, or too long.
    """
    today = datetime.now(UTC).date()
    if first > last:
        raise WrongParameters(f"{first} is after {last}.", hint="Give the earlier day first.")
    if last > today:
        raise WrongParameters(f"{last} is in the future.", hint=f"Today is {today} (UTC).")
    if (last - first).days >= MOST_DAYS:
        raise WrongParameters(
            f"From {first} to {last} are more than {MOST_DAYS:,} days.", hint="Take fewer at once."
        )


def read_calendar(
    connection: psycopg.Connection, feeds: Sequence[DailyLoad], first: date, last: date, *, marts: bool = True
) -> list[Partition]:
    """List each day of each source and of the web logs, by day; a day whose last load failed is failed."""
    tries = {
        (feed, day): (message, at)
        for feed, day, status, message, at in last_tries(connection, first, last)
        if status == "failed"
    }
    partitions = []
    dated: list[Dated] = [*feeds, *([MartDays()] if marts else [])]
    for one in dated:
        for day, partition in one.days(connection, first, last).items():
            if failed := tries.get((one.name, day)):
                message, at = failed
                if partition.loaded_at is None or partition.loaded_at < at:
                    partition = replace(partition, status="failed", message=message)
            partitions.append(partition)
    return sorted(partitions, key=lambda partition: partition.day)


def plan(
    connection: psycopg.Connection,
    feeds: Sequence[DailyLoad],
    first: date,
    last: date,
    *,
    missing: bool,
    done: Collection[tuple[str, date]] = (),
) -> list[Partition]:
    """List what a backfill has to load: every day, or only missing and failed ones; not what is `done`."""
    return [
        partition
        for partition in read_calendar(connection, feeds, first, last, marts=False)
        if (partition.source, partition.day) not in done
        and (not missing or partition.status in ("missing", "failed"))
    ]
