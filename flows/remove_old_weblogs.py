"""Flow remove-old-weblogs: web log requests older than the settings allow are removed."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse import weblogs
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import Removed

NAME = "remove-old-weblogs"


@flow(NAME, covers=lambda: "")
def remove_old_weblogs(confirm_deletes: bool = False) -> Outcome:
    """Drop months and delete days that are older than DWH_WEBLOG_RETENTION_DAYS; nothing where that is not set."""
    settings = located(Settings.load())

    def remove(run: Run) -> Outcome:
        removed = remove_requests(run, settings, confirm_deletes)
        load = Load(
            "weblogs", "dwh.fact_weblog", rows_deleted=removed.rows, seconds=round(removed.seconds, 3)
        )
        return Outcome(NAME, run.run_id, (load,) if removed.cutoff else ())

    return acquired(
        settings.warehouse, NAME, remove, lock="old web logs", parameters={"confirm_deletes": confirm_deletes}
    )


@task
def remove_requests(run: Run, settings: Settings, confirm_deletes: bool) -> Removed:
    """Step by step, each a transaction; goes on where the last attempt committed."""
    ensure_alive(run)
    removed = weblogs.retain(
        settings,
        run,
        confirm_deletes=confirm_deletes,
        progress=lambda partition, rows: say(f"{partition}: {rows:,} requests removed"),
    )
    say(str(removed))
    return removed
