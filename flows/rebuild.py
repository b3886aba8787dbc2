"""Flow rebuild: rebuild tables from the archive, compare them with the live ones, and correct what differs."""

from collections.abc import Sequence

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.archive.place import Archive
from warehouse.load import marts
from warehouse.rebuild import as_of as past
from warehouse.rebuild import rebuild as engine
from warehouse.rebuild.damage import WEBLOG_AGGREGATES, WEBLOG_TABLES, has_weblogs
from warehouse.rebuild.tables import full_name
from warehouse.rebuild.take_over import take_over
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.sources.registry import declared_feeds, read_source

NAME = "rebuild"


@flow(NAME)
def rebuild(tables: list[str] | None = None, as_of: int | None = None) -> FlowResult:
    """Rebuild tables from archive and landing files; rows that are already correct are not touched.

    An empty warehouse, as after the loss of its database, takes over the archive's runs first. Mirrors and star are put
    in place in one transaction; then web-log files with missing requests are loaded again.

    Args:
        tables: Mirrors, dimensions and facts, as raw.shop_customer, dwh.dim_customer or customer; unset: all.
        as_of: Build mirrors, dimensions and daily snapshots as this run left them into a schema of its own; live tables
            stay as they are.
    """
    settings = with_urls(Settings.load())
    archive = Archive.of(settings)
    if tables is not None:
        tables = [full_name(table) for table in tables]
    if tables is None and as_of is None:
        take_over(settings.warehouse, archive, log)

    other_tables = None if tables is None else sorted({*tables} - WEBLOG_TABLES)
    weblog_tables = sorted(WEBLOG_TABLES if tables is None else WEBLOG_TABLES & {*tables})

    def work(run: Run) -> FlowResult:
        if as_of is not None:
            return FlowResult(NAME, run.run_id, build_past(run, archive, settings, tables, as_of))
        verdicts = rebuild_tables(run, archive, settings, other_tables)
        if weblog_tables and has_weblogs(run.connection):
            # If a web-log table other than an aggregate is named, every file is loaded again.
            every_file = tables is not None and not WEBLOG_AGGREGATES.issuperset(weblog_tables)
            verdicts += rebuild_requests(run, settings, every_file)
        loads = refresh_marts(run) if any(one.rows_differing for one in verdicts) else ()
        return FlowResult(NAME, run.run_id, loads, verdicts=verdicts)

    return run_locked(
        settings.warehouse, NAME, work, lock=NAME, parameters={"tables": tables, "as_of": as_of}
    )


@task
def build_past(
    run: Run, archive: Archive, settings: Settings, tables: Sequence[str] | None, as_of: int
) -> tuple[Load, ...]:
    """Build tables as a run left them into a schema of their own."""
    ensure_alive(run)
    feeds = [read_source(name, settings.sources) for name in declared_feeds(settings.sources)]
    counts = past.rebuild_as_of(run, archive, feeds, as_of, tables, progress=log)
    return tuple(Load("archive", name, rows_inserted=count) for name, count in counts.items())


@task
def rebuild_tables(
    run: Run, archive: Archive, settings: Settings, tables: Sequence[str] | None
) -> tuple[Verdict, ...]:
    """Rebuild from the archive, compare, and put in place."""
    ensure_alive(run)
    sources = engine.loaded_sources(run.connection, settings.sources)
    return engine.rebuild(run, archive, sources, tables, progress=log)


@task
def rebuild_requests(run: Run, settings: Settings, every_file: bool) -> tuple[Verdict, ...]:
    """Load web-log files with missing requests, or every file, again."""
    ensure_alive(run)
    from warehouse.rebuild.weblogs import rebuild_weblogs

    return rebuild_weblogs(run, settings, every_file=every_file, progress=log)


@task
def refresh_marts(run: Run) -> tuple[Load, ...]:
    """Refresh the stored marts after the rebuild has corrected rows."""
    ensure_alive(run)
    return marts.refresh(run)
