"""Flow reclassify-weblogs: look up the countries of all web-log requests again in the GeoIP database in use."""

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse import weblogs
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import Reclassified

NAME = "reclassify-weblogs"


@flow(NAME)
def reclassify_weblogs() -> FlowResult:
    """Move requests to their addresses' current countries, month by month; continues where the last run stopped."""
    settings = with_urls(Settings.load())

    def reclassify(run: Run) -> FlowResult:
        done = reclassify_requests(run, settings)
        load = Load(
            "weblogs", "dwh.fact_weblog", rows_updated=done.rows_moved, seconds=round(done.seconds, 3)
        )
        return FlowResult(NAME, run.run_id, (load,))

    return run_locked(settings.warehouse, NAME, reclassify, lock="reclassify weblogs")


@task
def reclassify_requests(run: Run, settings: Settings) -> Reclassified:
    """Reclassify month by month, each in a transaction; finished months are not repeated."""
    ensure_alive(run)
    done = weblogs.reclassify(
        settings,
        run,
        progress=lambda month, number, count, moved: log(
            f"{month:%Y-%m}, month {number} of {count}: {moved:,} requests moved"
        ),
    )
    log(str(done))
    return done
