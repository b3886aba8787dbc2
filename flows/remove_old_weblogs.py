"""Flow remove-old-weblogs: remove web-log requests that are past their retention."""

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse import weblogs
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import Removed

NAME = "remove-old-weblogs"


@flow(NAME)
def remove_old_weblogs(confirm_deletes: bool = False) -> FlowResult:
    """Drop months and delete days older than DWH_WEBLOG_RETENTION_DAYS; nothing if that is not set."""
    settings = with_urls(Settings.load())

    def remove(run: Run) -> FlowResult:
        removed = remove_requests(run, settings, confirm_deletes)
        load = Load(
            "weblogs", "dwh.fact_weblog", rows_deleted=removed.rows, seconds=round(removed.seconds, 3)
        )
        return FlowResult(NAME, run.run_id, (load,) if removed.cutoff else ())

    return run_locked(
        settings.warehouse, NAME, remove, lock="old web logs", parameters={"confirm_deletes": confirm_deletes}
    )


@task
def remove_requests(run: Run, settings: Settings, confirm_deletes: bool) -> Removed:
    """Remove partition by partition, each in a transaction; continues after the last attempt's commits."""
    ensure_alive(run)
    removed = weblogs.retain(
        settings,
        run,
        confirm_deletes=confirm_deletes,
        progress=lambda partition, rows: log(f"{partition}: {rows:,} requests removed"),
    )
    log(str(removed))
    return removed
