"""Flow ingest-weblogs: load what is new in the access logs of the lake into dwh.fact_weblog."""

import logging

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse import weblogs
from warehouse.db.locks import source_lock
from warehouse.errors import counted
from warehouse.files import lake
from warehouse.history import change_log
from warehouse.rebuild.damage import WEBLOG_TABLES, are_weblogs_damaged
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import WeblogDryRun, WeblogLoad
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules

NAME = "ingest-weblogs"
# How many files the log names; `dwh status --json` names all.
SHOWN_FILES = 20


@flow(NAME, run_title=lambda: f"{NAME} {Settings.load().lake.rpartition('@')[2]}")
def ingest_weblogs(reconform: bool = False, dry_run: bool = False) -> FlowResult:
    """Load new files and new lines of growing ones; every line goes into the warehouse or into quarantine.

    Concurrent runs, on any workers, share the files.

    Args:
        reconform: Derive texts again whose rules have changed, even if there are more than DWH_RECONFORM_ROWS.
        dry_run: Do it, show what would change, and roll it back.
    """
    settings = with_urls(Settings.load())

    def ingest(run: Run) -> FlowResult:
        if dry_run:
            dry = dry_run_load(run, settings)
            return FlowResult(
                NAME,
                run.run_id,
                dry.loads,
                dry.weblogs.checks,
                examples=dry.examples,
                dry_run=True,
                unread_files=dry.weblogs.unread,
            )
        if run.is_archived and are_weblogs_damaged(run.connection):
            rebuild_lost_requests(run, settings)
        loaded = load_files(run, settings, reconform)
        change_log.prune(run.connection, settings.change_log_days)
        load = Load(
            "weblogs",
            "dwh.fact_weblog",
            rows_read=loaded.lines,
            rows_inserted=loaded.rows_loaded,
            rows_quarantined=loaded.rows_quarantined,
            seconds=round(loaded.seconds, 3),
        )
        loads = (*loaded.rederived, load)
        return FlowResult(NAME, run.run_id, loads, loaded.checks, unread_files=loaded.unread)

    return run_locked(settings.warehouse, NAME, ingest, lock=source_lock(FEED), shared=True, dry_run=dry_run)


@task
def rebuild_lost_requests(run: Run, settings: Settings) -> None:
    """Load the files again whose requests somebody has dropped or deleted since the last run."""
    ensure_alive(run)
    # Alembic takes a while to import: few runs need it.
    from warehouse.rebuild.rebuild import rebuild_damaged
    from warehouse.rebuild.weblogs import rebuild_weblogs

    log("tables of the web logs were dropped or emptied since the last run: their files are loaded again")
    rebuild_damaged(run, settings, (), log, needed=WEBLOG_TABLES)
    rebuild_weblogs(run, settings, progress=log)


@task
def load_files(run: Run, settings: Settings, reconform: bool) -> WeblogLoad:
    """Load what is new in each file; continues after the last attempt's commits."""
    ensure_alive(run)
    log(f"reading web logs in {settings.lake}")
    if missing := lake.what_is_missing(lake.folder(settings.lake, read_traffic_rules().landing)):
        log(f"{missing}: no web logs to load. Is DWH_LAKE correct?")
    _warn_of_slow_parser()
    loaded = weblogs.load(settings, run, reconform=reconform)
    for load in loaded.rederived:
        log(str(load))
    _log_result(loaded)
    return loaded


@task
def dry_run_load(run: Run, settings: Settings) -> WeblogDryRun:
    """Show what a load would do with each file and each table."""
    ensure_alive(run)
    result = weblogs.dry_run_load(settings, run)
    _log_result(result.weblogs)
    return result


def _warn_of_slow_parser() -> None:
    if native.fault is not None:
        log(f"{native.fault.what} {native.fault.hint}", logging.WARNING)


def _log_result(loaded: WeblogLoad) -> None:
    """Log the counts, the messages of files, and the number of files that are not read (the result names them)."""
    log(str(loaded))
    for file in [file for file in loaded.files if file.message][:SHOWN_FILES]:
        log(f"{file.path}: {file.message}")
    ignored = sum(one.status == "ignored" for one in loaded.unread)
    if others := len(loaded.unread) - ignored:
        log(f"cannot read {counted(others, 'file')}: `dwh status` says why, and what to do", logging.WARNING)
    if ignored:
        log(f"ignored by name: {ignored:,}")
