"""Flow geoip-update: replace the GeoIP database in use by the newest one."""

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.run_locked import run_locked
from warehouse import geoip
from warehouse.runs.audit import Run, add_parameters, ensure_alive
from warehouse.settings import Settings

NAME = "geoip-update"


@flow(NAME)
def geoip_update() -> geoip.Update:
    """Fetch DB-IP Country Lite, or GeoLite2 if a licence key is set; later loads use it."""
    settings = with_urls(Settings.load())
    return run_locked(settings.warehouse, NAME, lambda run: fetch_database(run, settings), lock="geoip")


@task
def fetch_database(run: Run, settings: Settings) -> geoip.Update:
    """Fetch the newest database, check it, and put it in use; on any error the old one stays in use."""
    ensure_alive(run)
    updated = geoip.update(settings)
    add_parameters(run, fetched=str(updated))
    log(str(updated))
    return updated
