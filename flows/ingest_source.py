"""Flow ingest-<source>: load what changed in a source since the last run into the warehouse."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from flows.artifacts import count_tables
from flows.databases import with_urls
from flows.engine import flow, log, renamed, run_parameters, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.archive import upkeep
from warehouse.archive.batch_files import BatchFiles, batch_files
from warehouse.archive.place import Archive
from warehouse.db.locks import source_lock
from warehouse.errors import counted
from warehouse.extract import stage, verification
from warehouse.extract.catalog import read_key_types
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.limits import ReadLimits
from warehouse.extract.staged import Staged
from warehouse.extract.verification import Verification
from warehouse.feeds.stage import stage_feed as stage_files
from warehouse.feeds.staged import StagedFeed
from warehouse.history import change_log
from warehouse.history.dry_run import examples
from warehouse.load import contract, publish
from warehouse.load.publish import Published
from warehouse.rebuild.damage import find_damaged
from warehouse.runs import live_process
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.definitions import check_reconform_limit, find_stale_targets, read_contracts
from warehouse.settings import Settings
from warehouse.sources.registry import read_source
from warehouse.sources.source import Source

NAME = "ingest-source"


def flow_name(source: str) -> str:
    """Name of the flow's runs and deployment of `source`."""
    return f"ingest-{source}"


def flow_of(source: str) -> Callable[..., FlowResult]:
    """The flow that loads `source`, under a name of its own."""
    return partial(renamed(ingest_source, flow_name(source)), source)


@flow(NAME, run_title=lambda: flow_name(run_parameters()["source"]))
def ingest_source(
    source: str,
    full_refresh: bool = False,
    confirm_deletes: bool = False,
    reconform: bool = False,
    accept_source: bool = False,
    dry_run: bool = False,
) -> FlowResult:
    """Capture a source, check it, and publish it to the warehouse in one transaction.

    Args:
        source: Name of a declared source that has a URL (DWH_<NAME>_URL), such as shop.
        full_refresh: Read every row again.
        confirm_deletes: Publish deletes even if more than DWH_MAX_DELETE_SHARE of a table is gone.
        reconform: Conform again what was made by another definition, also if it is more than DWH_RECONFORM_ROWS.
        accept_source: Read everything again from another database than before, as after a deliberate move or restore.
        dry_run: Do all of it and roll it back.
    """
    settings = with_urls(Settings.load())
    name, declared = flow_name(source), read_source(source, settings.sources)
    url = "" if declared.feed else settings.source_url(source)

    def ingest(run: Run) -> FlowResult:
        ensure_undamaged(run, declared, url, settings)
        is_near = "://" not in settings.lake
        with batch_files(run, partial(Archive.of, settings), log, is_near=is_near) as files:
            staged: Staged = (
                stage_feed(run, declared, settings, full_refresh, confirm_deletes, reconform)
                if declared.feed
                else stage_source(
                    run,
                    declared,
                    url,
                    settings,
                    full_refresh,
                    confirm_deletes,
                    reconform,
                    accept_source,
                    files,
                )
            )
            published = publish_batch(run, staged, files)
        upkeep.begin_to_add(run, settings)
        verifications = () if declared.feed else verify_source(run, staged)
        if not dry_run:
            change_log.prune(run.connection, settings.change_log_days)
        found = examples(run, published.loads)
        return FlowResult(
            name,
            run.run_id,
            published.loads,
            published.checks,
            verifications,
            examples=found,
            dry_run=dry_run,
            unread_files=staged.unread if isinstance(staged, StagedFeed) else (),
        )

    def prepare_contracts(run: Run) -> None:
        # Live loading waits while this run holds the lock: import Soda and compile the contracts before. Without live
        # loading, leave that until there are rows: a run that finds no changes needs no Soda.
        if live_process.is_running(run.connection, source):
            contract.prepare(run.connection, read_contracts(declared).values(), source)

    return run_locked(
        settings.warehouse,
        name,
        ingest,
        lock=source_lock(source),
        parameters={
            "source": source,
            "full_refresh": full_refresh,
            "confirm_deletes": confirm_deletes,
            "reconform": reconform,
            "accept_source": accept_source,
        },
        dry_run=dry_run,
        before_lock=prepare_contracts,
    )


def ensure_undamaged(run: Run, source: Source, url: str, settings: Settings) -> None:
    """Rebuild tables that somebody has dropped or emptied since the last run, unless this is a dry run."""
    # Mirrors of a feed are rebuilt from its landing files, with or without an archive.
    can_rebuild = run.is_archived or (source.feed is not None and run.dry_run_connection is None)
    if can_rebuild and (damaged := find_damaged(run.connection, source)):
        rebuild_lost_tables(run, damaged, source, url, settings)


@task
def rebuild_lost_tables(
    run: Run, damaged: Sequence[str], source: Source, url: str, settings: Settings
) -> None:
    """Rebuild tables that somebody has dropped or emptied since the last run."""
    ensure_alive(run)
    # deltalake and Alembic take a second to import: few runs need them.
    from warehouse.rebuild.rebuild import rebuild_damaged

    origin = "the archive" if run.is_archived else "landing files"
    log(f"dropped or emptied since the last run: {', '.join(damaged)}; rebuilt from {origin}")
    lost = [table for table in source.tables if f"raw.{table.mirror}" in damaged]
    keys = read_key_types(source.name, url, lost) if url and lost else {}
    rebuild_damaged(
        run, settings, damaged, log, keys={f"raw.{table.mirror}": key for table, key in keys.items()}
    )


@task
def stage_source(
    run: Run,
    source: Source,
    url: str,
    settings: Settings,
    full_refresh: bool,
    confirm_deletes: bool,
    reconform: bool,
    accept_source: bool,
    files: BatchFiles | None,
) -> Staged:
    """Copy what may have changed into schema staging; stop before that if too much has to be conformed again."""
    ensure_alive(run)
    if not (reconform or full_refresh or accept_source):
        _check_reconform_limit(run, source, settings)
    log(f"reading source {source.name}")
    given = {"--full-refresh": full_refresh, "--reconform": reconform, "--accept-source": accept_source}
    return stage.stage(
        run,
        source,
        url,
        threshold=_threshold(settings, confirm_deletes, given),
        limits=ReadLimits.of(settings),
        lock_wait_seconds=settings.source_lock_wait,
        full_refresh=full_refresh,
        accept_source=accept_source,
        on_staged=files.add if files else lambda *_: None,
        progress=log,
    )


@task
def stage_feed(
    run: Run, source: Source, settings: Settings, full_refresh: bool, confirm_deletes: bool, reconform: bool
) -> StagedFeed:
    """Read the records of new files into schema staging; stop before if too much has to be conformed again."""
    ensure_alive(run)
    if not (reconform or full_refresh):
        _check_reconform_limit(run, source, settings)
    log(f"reading feed {source.name}")
    given = {"--full-refresh": full_refresh, "--reconform": reconform}
    return stage_files(
        run,
        source,
        settings.lake,
        threshold=_threshold(settings, confirm_deletes, given),
        full_refresh=full_refresh,
        progress=log,
    )


def _check_reconform_limit(run: Run, source: Source, settings: Settings) -> None:
    stale = find_stale_targets(run.connection, source, read_contracts(source))
    check_reconform_limit(stale, settings.reconform_rows)


def _threshold(settings: Settings, confirm_deletes: bool, given: Mapping[str, bool]) -> DeleteThreshold:
    options = tuple(option for option, is_given in given.items() if is_given)
    return DeleteThreshold(settings.max_delete_share, settings.delete_floor_rows, confirm_deletes, options)


@task
def publish_batch(run: Run, staged: Staged, files: BatchFiles | None) -> Published:
    """Check the batch against its contracts and publish it, all or nothing."""
    ensure_alive(run)
    written = files.begin_publish(staged) if files else dict
    return publish.publish(run, staged, written=written, progress=log)


@task
def verify_source(run: Run, staged: Staged) -> tuple[Verification, ...]:
    """Compare source and mirror, chunk by chunk."""
    ensure_alive(run)
    verifications = verification.verify(run, staged)
    compared = [one for one in verifications if one.is_compared]
    rows = sum(one.rows_source for one in compared)
    tables = count_tables(len(compared), sum(one.is_part for one in compared))
    log(f"verified: {tables}, {counted(rows, 'row')}, equal in source and mirror")
    return verifications
