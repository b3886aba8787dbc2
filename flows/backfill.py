"""Flow backfill: days of the past are loaded anew, day by day and feed by feed, then the marts."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import date
from itertools import count
from typing import Annotated

from pydantic import Field

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, identity, run_parameters, say, task_called
from flows.ingest_shop import ingest_shop
from flows.refresh_marts import refresh_marts
from warehouse.backfill import Feed, Partition, done_by, ensure_days, feeds_of, load_day, plan
from warehouse.errors import StepsFailed
from warehouse.runs.audit import Run
from warehouse.runs.resume import resume_from, unfinished
from warehouse.settings import Settings

NAME = "backfill"
# An interrupted backfill is gone on with when the same days are asked for again.
RESUME_HOURS = 7 * 24.0


@dataclass(frozen=True)
class DayDone:
    """A day of a feed that was loaded anew: rows of the day afterwards, and what there is to say."""

    feed: str
    day: date
    rows: int
    message: str | None


@dataclass(frozen=True)
class Backfilled:
    """What a backfill loaded; `skipped` counts the days that it had loaded before it was interrupted."""

    run_id: int
    days: Sequence[DayDone]
    skipped: int


def _span() -> str:
    given = run_parameters()
    return f"{given.get('only') or 'all feeds'} {given.get('from_date')} to {given.get('to_date')}"


@flow(NAME, covers=_span)
def backfill(
    from_date: date,
    to_date: date,
    only: str | None = None,
    parallel: Annotated[int, Field(ge=1, le=16)] = 1,
    missing: bool = False,
    restart: bool = False,
) -> Backfilled:
    """Load days of the past anew: what is loaded of them is replaced, never doubled.

    One that was interrupted goes on where it was when the same days are asked for again.

    Args:
        from_date: First day (UTC).
        to_date: Last day (UTC).
        only: One feed, as weblogs; empty means all.
        parallel: How many days at once.
        missing: Only days that are missing or have failed.
        restart: Begin again, even if the same days were interrupted.
    """
    ensure_days(from_date, to_date)
    settings = located(Settings.load())
    feeds = feeds_of(settings, only)
    asked = {"from_date": str(from_date), "to_date": str(to_date), "only": only, "missing": missing}

    def load(run: Run) -> Backfilled:
        before = unfinished(run.connection, run, identity().prefect_run_id, within_hours=RESUME_HOURS)
        same: Collection[int] = ()
        if before and not restart and {name: before.parameters.get(name) for name in asked} == asked:
            resume_from(run.connection, run, before, {})
            same = before.run_ids
        done = done_by(run.connection, same)
        work = plan(run.connection, feeds, from_date, to_date, missing=missing, done=done)
        said = f", {len(done)} done by run {before.run_id} and before" if done and before else ""
        say(f"backfill of {from_date} to {to_date}: {len(work)} days to load{said}")
        days, failed = _load_all(run, feeds, work, same, parallel)
        if work:
            try:
                refresh_marts()
            except Exception as error:
                failed["refresh-marts"] = error
        if failed:
            raise StepsFailed(failed, of=len(work) + 1)
        return Backfilled(run.run_id, days, len(done))

    parameters = {**asked, "parallel": parallel}
    return acquired(settings.warehouse, NAME, load, lock=NAME, parameters=parameters)


@task_called("{feed.name} {day}")
def load_partition(run: Run, feed: Feed, day: date, same_backfill: Collection[int]) -> DayDone:
    """Load a day of a feed anew."""
    loaded = load_day(run, feed, day, same_backfill)
    return DayDone(feed.name, day, loaded.rows, loaded.message)


def _load_all(
    run: Run, feeds: Sequence[Feed], work: Sequence[Partition], same: Collection[int], parallel: int
) -> tuple[list[DayDone], dict[str, Exception]]:
    """Load each partition; what fails does not keep the others from being loaded."""
    days: list[DayDone] = []
    failed: dict[str, Exception] = {}
    by_name = {feed.name: feed for feed in feeds}
    number = count(1)

    def load(partition: Partition) -> None:
        name = f"{partition.feed} {partition.day}"
        try:
            day = load_partition(run, by_name[partition.feed], partition.day, same)
        except Exception as error:
            failed[name] = error
            say(f"[{next(number)}/{len(work)}] {name} failed: {error}", logging.ERROR)
        else:
            days.append(day)
            note = f" ({day.message})" if day.message else ""
            say(f"[{next(number)}/{len(work)}] {name} → {day.rows:,} rows{note}")

    if _wants_capture(work):
        try:
            ingest_shop()
        except Exception as error:
            failed["ingest-shop"] = error
    with ThreadPoolExecutor(parallel) as pool:
        # Prefect knows by the context which run a thread works for.
        for future in [pool.submit(copy_context().run, load, partition) for partition in work]:
            future.result()
    return sorted(days, key=lambda day: (day.day, day.feed)), failed


def _wants_capture(work: Sequence[Partition]) -> bool:
    """Whether days of the source are wanted that only a capture can bring."""
    source = Settings.load().source
    return any(one.feed == source and one.status in ("missing", "failed", "partial") for one in work)
