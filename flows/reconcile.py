"""Flow reconcile: recompute every table from the layer below and compare, from the sources to the stored marts."""

import logging
from collections.abc import Sequence

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.db.connection_errors import explain_refusals
from warehouse.db.connections import without_password
from warehouse.errors import DifferencesFound, StepsFailed
from warehouse.feeds.landing import landed_feeds
from warehouse.reconcile import reconcile as engine
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings
from warehouse.sources.declaration import is_feed
from warehouse.sources.registry import find_source, read_source, sources_with_url
from warehouse.sources.source import Source
from warehouse.weblogs.files.checkpoints import FEED

NAME = "reconcile"


@flow(NAME)
def reconcile(repair: bool = False, sources: list[str] | None = None) -> FlowResult:
    """Compare sources, mirrors, star, web logs and stored marts; the run is stopped if they differ.

    A source that cannot be compared does not stop the others.

    Args:
        repair: Repair what differs, and nothing else; the old rows are kept in audit.difference.
        sources: Sources to compare, `weblogs` among them; unset: every source that has a URL, every feed that
            has a landing folder, and the web logs.
    """
    settings = with_urls(Settings.load())
    names = sources or [*sources_with_url(settings), *landed_feeds(settings), FEED]
    for name in names:
        if name != FEED and not is_feed(find_source(name, settings.sources)):
            settings.source_url(name)

    def compare(run: Run) -> FlowResult:
        verdicts: list[Verdict] = []
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                with explain_refusals(without_password(settings.warehouse)):
                    if name == FEED:
                        verdicts += reconcile_weblogs(run, repair)
                    else:
                        source = read_source(name, settings.sources)
                        verdicts += (
                            reconcile_feed(run, source, repair)
                            if source.feed
                            else reconcile_source(run, source, settings, repair)
                        )
            except Exception as error:
                failed[name] = error
                log(f"{name} failed: {error}", logging.ERROR)
        try:
            engine.stop_on_differences(verdicts)
        except DifferencesFound as differences:
            if not failed:
                raise
            failed["the rest"] = differences
        if failed:
            raise StepsFailed(failed, of=len(names), verdicts=verdicts)
        return FlowResult(NAME, run.run_id, verdicts=verdicts)

    parameters = {"repair": repair, "sources": names}
    return run_locked(settings.warehouse, NAME, compare, lock=NAME, parameters=parameters)


@task
def reconcile_source(run: Run, source: Source, settings: Settings, repair: bool) -> Sequence[Verdict]:
    """Compare a source with its mirrors, these with the star, and the star with the stored marts."""
    ensure_alive(run)
    return engine.reconcile_source(
        run,
        source,
        settings.source_url(source.name),
        repair=repair,
        lock_wait_seconds=settings.source_lock_wait,
        progress=log,
    )


@task
def reconcile_feed(run: Run, source: Source, repair: bool) -> Sequence[Verdict]:
    """Compare the record counts of a feed's files, its rows in the star, and the stored marts."""
    ensure_alive(run)
    return engine.reconcile_feed(run, source, repair=repair, progress=log)


@task
def reconcile_weblogs(run: Run, repair: bool) -> Sequence[Verdict]:
    """Compare the web-log files, dwh.fact_weblog, and the aggregates of it."""
    ensure_alive(run)
    return engine.reconcile_weblog_files(run, repair=repair, progress=log)
