"""Flow reclassify-weblogs: the countries of all web log requests are told again by the GeoIP database in use."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse import weblogs
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings
from warehouse.weblogs import Reclassified

NAME = "reclassify-weblogs"


@flow(NAME, covers=lambda: "")
def reclassify_weblogs() -> Outcome:
    """Move requests to the countries that their addresses have now, month by month; goes on where it stopped."""
    settings = located(Settings.load())

    def tell_again(run: Run) -> Outcome:
        told = tell_countries_again(run, settings)
        load = Load(
            "weblogs", "dwh.fact_weblog", rows_updated=told.rows_moved, seconds=round(told.seconds, 3)
        )
        return Outcome(NAME, run.run_id, (load,))

    return acquired(settings.warehouse, NAME, tell_again, lock="reclassify weblogs")


@task
def tell_countries_again(run: Run, settings: Settings) -> Reclassified:
    """A month is a transaction; months that are done are not done again."""
    ensure_alive(run)
    told = weblogs.reclassify(
        settings,
        run,
        progress=lambda month, number, count, moved: say(
            f"{month:%Y-%m}, month {number} of {count}: {moved:,} requests moved"
        ),
    )
    say(str(told))
    return told
