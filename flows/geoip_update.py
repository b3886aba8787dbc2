"""Flow geoip-update: the newest GeoIP database takes the place of the one in use."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from warehouse import geoip
from warehouse.runs.audit import Run, add_parameters, ensure_alive
from warehouse.settings import Settings

NAME = "geoip-update"


@flow(NAME, covers=lambda: "")
def geoip_update() -> geoip.Update:
    """Fetch DB-IP Country Lite, or GeoLite2 where a licence key is set; loads that follow use it."""
    settings = located(Settings.load())
    return acquired(settings.warehouse, NAME, lambda run: fetch_database(run, settings), lock="geoip")


@task
def fetch_database(run: Run, settings: Settings) -> geoip.Update:
    """Fetch, check and swap; whatever goes wrong, the database in use stays."""
    ensure_alive(run)
    updated = geoip.update(settings)
    add_parameters(run, fetched=str(updated))
    say(str(updated))
    return updated
