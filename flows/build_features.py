"""Flow build-features: build the features of customers as of a day."""

from datetime import date, datetime

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse import features
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings

NAME = "build-features"


@flow(NAME)
def build_features(
    as_of: date | None = None, known_at: datetime | None = None, dry_run: bool = False
) -> FlowResult:
    """Build mart.customer_feature as of a day; rows of other days stay.

    Args:
        as_of: Day up to whose end events count; by default the day of each source's newest sale.
        known_at: Take the tables as they stood at this time, as far as the change log reaches; by default as they are.
        dry_run: Build the rows, report them, and roll back.
    """
    settings = with_urls(Settings.load())
    parameters = {"as_of": as_of and str(as_of), "known_at": known_at and str(known_at)}

    def build(run: Run) -> FlowResult:
        loads = build_customer_features(run, settings.currency, as_of, known_at)
        return FlowResult(NAME, run.run_id, loads, dry_run=dry_run)

    return run_locked(
        settings.warehouse, NAME, build, lock="features", parameters=parameters, dry_run=dry_run
    )


@task
def build_customer_features(
    run: Run, currency: str, as_of: date | None, known_at: datetime | None
) -> tuple[Load, ...]:
    """Replace the rows of the as-of date."""
    ensure_alive(run)
    loads = features.build(run, currency=currency, as_of=as_of, known_at=known_at)
    for load in loads:
        log(str(load))
    return loads
