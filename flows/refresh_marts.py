"""Flow refresh-marts: materialized views of schema mart are brought up to date."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse.load import marts
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings

NAME = "refresh-marts"


@flow(NAME, covers=lambda: "")
def refresh_marts(dry_run: bool = False) -> Outcome:
    """Refresh every materialized view of schema mart; plain views are always up to date.

    Args:
        dry_run: Do it and roll it back.
    """
    settings = located(Settings.load())

    def refresh(run: Run) -> Outcome:
        return Outcome(NAME, run.run_id, refresh_views(run), dry_run=dry_run)

    return acquired(settings.warehouse, NAME, refresh, lock="marts", dry_run=dry_run)


@task
def refresh_views(run: Run) -> tuple[Load, ...]:
    """Refresh what is stored; readers are not locked out where a unique index allows it."""
    ensure_alive(run)
    loads = marts.refresh(run)
    for load in loads:
        say(str(load))
    return loads
