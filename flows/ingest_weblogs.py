"""Flow ingest-weblogs: what is new in the access logs of the lake becomes rows of dwh.fact_weblog."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse import weblogs
from warehouse.files import lake
from warehouse.history import change_log
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import WeblogDryRun, WeblogLoad
from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules

NAME = "ingest-weblogs"


@flow(NAME, covers=lambda: Settings.load().lake.rpartition("@")[2])
def ingest_weblogs(dry_run: bool = False) -> Outcome:
    """Load new files and the new ends of growing ones, every line into the warehouse or into quarantine.

    Runs at the same time, by any workers, share out the files.

    Args:
        dry_run: Do it, tell what would have changed, and roll it back.
    """
    settings = located(Settings.load())

    def ingest(run: Run) -> Outcome:
        if dry_run:
            told = dry_run_load(run, settings)
            return Outcome(
                NAME, run.run_id, told.loads, told.weblogs.checks, examples=told.examples, dry_run=True
            )
        loaded = load_files(run, settings)
        change_log.prune(run.connection, settings.change_log_days)
        load = Load(
            "weblogs",
            "dwh.fact_weblog",
            rows_read=loaded.lines,
            rows_inserted=loaded.rows_loaded,
            rows_quarantined=loaded.rows_quarantined,
            seconds=round(loaded.seconds, 3),
        )
        return Outcome(NAME, run.run_id, (load,), loaded.checks)

    return acquired(settings.warehouse, NAME, ingest, lock="feed weblogs", shared=True, dry_run=dry_run)


@task
def load_files(run: Run, settings: Settings) -> WeblogLoad:
    """Load what is new of each file; goes on where the last attempt committed."""
    ensure_alive(run)
    say(f"reading web logs in {settings.lake}")
    if missing := lake.what_is_missing(lake.folder(settings.lake, read_traffic_rules().landing)):
        say(f"{missing}: no web logs to load. Is DWH_LAKE right?")
    if native.library is None:
        say(f"{native.SLOW_PARSER} {native.INSTALL_COMPILER}")
    loaded = weblogs.load(settings, run)
    say(str(loaded))
    return loaded


@task
def dry_run_load(run: Run, settings: Settings) -> WeblogDryRun:
    """Tell what a load would do with each file and each table."""
    ensure_alive(run)
    told = weblogs.dry_run_load(settings, run)
    say(str(told.weblogs))
    return told
