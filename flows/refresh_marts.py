"""Flow refresh-marts: bring the stored marts up to date."""

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.load import marts
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings

NAME = "refresh-marts"


@flow(NAME)
def refresh_marts(dry_run: bool = False) -> FlowResult:
    """Bring every stored mart up to date with what has changed; views always are.

    Args:
        dry_run: Do it and roll it back.
    """
    settings = with_urls(Settings.load())

    def refresh(run: Run) -> FlowResult:
        return FlowResult(NAME, run.run_id, refresh_views(run), dry_run=dry_run)

    return run_locked(settings.warehouse, NAME, refresh, lock="marts", dry_run=dry_run)


@task
def refresh_views(run: Run) -> tuple[Load, ...]:
    """Refresh the stored marts; readers see the old rows until it is done."""
    ensure_alive(run)
    loads = marts.refresh(run)
    for load in loads:
        log(str(load))
    return loads
