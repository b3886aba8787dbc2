"""Flow backfill: load days of the past again, day by day and source by source, then refresh the marts."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import date
from itertools import count
from typing import Annotated

from pydantic import Field

from flows.databases import with_urls
from flows.engine import flow, log, prefect_run, run_parameters, task_named
from flows.ingest_source import flow_name, flow_of
from flows.refresh_marts import refresh_marts
from flows.run_locked import run_locked
from warehouse.backfill import (
    DailyLoad,
    FactDays,
    Partition,
    daily_loads,
    done_by,
    ensure_days,
    load_day,
    plan,
)
from warehouse.errors import StepsFailed, counted
from warehouse.rebuild.damage import find_damaged
from warehouse.runs.audit import Run
from warehouse.runs.resume import resume_from, unfinished
from warehouse.settings import Settings

NAME = "backfill"
# An interrupted backfill is resumed if the same days are asked for again within this time.
RESUME_HOURS = 7 * 24.0


@dataclass(frozen=True)
class DayDone:
    """A day of a source or of the web logs that was loaded: its rows afterwards, and a note."""

    source: str
    day: date
    rows: int
    message: str | None


@dataclass(frozen=True)
class Backfilled:
    """What a backfill loaded; `skipped` counts the days that were loaded before it was interrupted."""

    run_id: int
    days: Sequence[DayDone]
    skipped: int


def _title() -> str:
    given = run_parameters()
    return f"{NAME} {given.get('only') or 'all sources'} {given.get('from_date')} to {given.get('to_date')}"


@flow(NAME, run_title=_title)
def backfill(
    from_date: date,
    to_date: date,
    only: str | None = None,
    parallel: Annotated[int, Field(ge=1, le=16)] = 1,
    missing: bool = False,
    restart: bool = False,
) -> Backfilled:
    """Load days of the past again: their rows are replaced, never duplicated.

    An interrupted backfill is resumed if the same days are asked for again.

    Args:
        from_date: First day (UTC).
        to_date: Last day (UTC).
        only: One source, or weblogs; empty for all.
        parallel: How many days to load at once.
        missing: Load only days that are missing or have failed.
        restart: Start from the first day, even if a backfill of the same days was interrupted.
    """
    ensure_days(from_date, to_date)
    settings = with_urls(Settings.load())
    feeds = daily_loads(settings, only)
    request = {"from_date": str(from_date), "to_date": str(to_date), "only": only, "missing": missing}

    def load(run: Run) -> Backfilled:
        before = unfinished(run.connection, run, prefect_run().prefect_run_id, within_hours=RESUME_HOURS)
        same: Collection[int] = ()
        if before and not restart and {name: before.parameters.get(name) for name in request} == request:
            resume_from(run.connection, run, before, {})
            same = before.run_ids
        done = done_by(run.connection, same)
        work = plan(run.connection, feeds, from_date, to_date, missing=missing, done=done)
        already = f", {len(done)} already done up to run {before.run_id}" if done and before else ""
        log(f"backfill of {from_date} to {to_date}: {counted(len(work), 'day')} to load{already}")
        days, failed = _load_all(run, feeds, work, same, parallel)
        if work:
            try:
                refresh_marts()
            except Exception as error:
                failed["refresh-marts"] = error
        if failed:
            raise StepsFailed(failed, of=len(work) + 1)
        return Backfilled(run.run_id, days, len(done))

    parameters = {**request, "parallel": parallel}
    return run_locked(settings.warehouse, NAME, load, lock=NAME, parameters=parameters)


@task_named("{feed.name} {day}")
def load_partition(run: Run, feed: DailyLoad, day: date, same_backfill: Collection[int]) -> DayDone:
    """Load a day of a source or of the web logs again."""
    loaded = load_day(run, feed, day, same_backfill)
    return DayDone(feed.name, day, loaded.rows, loaded.message)


def _load_all(
    run: Run, feeds: Sequence[DailyLoad], work: Sequence[Partition], same: Collection[int], parallel: int
) -> tuple[list[DayDone], dict[str, Exception]]:
    """Load each partition; one that fails does not stop the others."""
    days: list[DayDone] = []
    failed: dict[str, Exception] = {}
    by_name = {feed.name: feed for feed in feeds}
    number = count(1)

    def load(partition: Partition) -> None:
        name = f"{partition.source} {partition.day}"
        try:
            day = load_partition(run, by_name[partition.source], partition.day, same)
        except Exception as error:
            failed[name] = error
            log(f"[{next(number)}/{len(work)}] {name} failed: {error}", logging.ERROR)
        else:
            days.append(day)
            note = f" ({day.message})" if day.message else ""
            log(f"[{next(number)}/{len(work)}] {name} → {counted(day.rows, 'row')}{note}")

    for source in _sources_to_capture(run, feeds, work):
        try:
            flow_of(source)()
        except Exception as error:
            failed[flow_name(source)] = error
    with ThreadPoolExecutor(parallel) as pool:
        # Prefect finds the run of a thread by the thread's context: copy that of this one.
        for future in [pool.submit(copy_context().run, load, partition) for partition in work]:
            future.result()
    return sorted(days, key=lambda day: (day.day, day.source)), failed


def _sources_to_capture(run: Run, feeds: Sequence[DailyLoad], work: Sequence[Partition]) -> list[str]:
    """Sources with days that only a capture can load: their mirrors do not hold them yet, or have lost them."""
    planned = {one.source for one in work}
    unloaded = {one.source for one in work if one.status in ("missing", "failed", "partial")}
    return [
        feed.name
        for feed in feeds
        if isinstance(feed, FactDays)
        and (feed.name in unloaded or (feed.name in planned and find_damaged(run.connection, feed.source)))
    ]
