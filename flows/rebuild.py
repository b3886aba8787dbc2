"""Flow rebuild: rebuild tables from the archive, compare them with the live ones, and put right what differs."""

from collections.abc import Sequence

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.archive.place import Archive
from warehouse.feeds.landing import landed_feeds
from warehouse.rebuild import as_of as past
from warehouse.rebuild import rebuild as engine
from warehouse.rebuild.take_over import take_over
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings
from warehouse.sources.registry import read_source, sources_with_url

NAME = "rebuild"


@flow(NAME)
def rebuild(tables: list[str] | None = None, as_of: int | None = None) -> FlowResult:
    """Rebuild tables from the archive in one transaction; rows that are as they should be are not touched.

    An empty warehouse, as after the loss of its database, takes over the archive's runs first.

    Args:
        tables: Mirrors, dimensions and facts, as raw.shop_customer or dwh.dim_customer; unset: all.
        as_of: Build mirrors and dimensions as this run left them into a schema of its own, and touch no live table.
    """
    settings = with_urls(Settings.load())
    archive = Archive.of(settings)
    if tables is None and as_of is None:
        take_over(settings.warehouse, archive, log)

    def work(run: Run) -> FlowResult:
        verdicts = rebuild_tables(run, archive, settings, tables, as_of)
        return FlowResult(NAME, run.run_id, verdicts=verdicts)

    return run_locked(
        settings.warehouse, NAME, work, lock=NAME, parameters={"tables": tables, "as_of": as_of}
    )


@task
def rebuild_tables(
    run: Run, archive: Archive, settings: Settings, tables: Sequence[str] | None, as_of: int | None
) -> tuple[Verdict, ...]:
    """Rebuild from the archive, compare, and put in place."""
    ensure_alive(run)
    if as_of is not None:
        past.rebuild_as_of(run, archive, as_of, tables, progress=log)
        return ()
    names = [*sources_with_url(settings), *landed_feeds(settings)]
    sources = [read_source(name, settings.sources) for name in names]
    return engine.rebuild(run, archive, sources, tables, progress=log)
