"""Flow daily-warehouse: load every source, feed and the web logs, then refresh the marts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from flows.databases import with_urls
from flows.engine import flow, log, prefect_run
from flows.ingest_source import flow_name, flow_of
from flows.ingest_weblogs import ingest_weblogs
from flows.refresh_marts import refresh_marts
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.db.locks import is_held, source_lock
from warehouse.errors import StepsFailed, WrongParameters
from warehouse.feeds.landing import follows_star, landed_feeds
from warehouse.runs.audit import Run
from warehouse.runs.resume import Step, outstanding, resume_from, unfinished
from warehouse.settings import Settings
from warehouse.sources.registry import sources_with_url

NAME = "daily-warehouse"
WEBLOGS, MARTS = "ingest-weblogs", "refresh-marts"
# A failed run is resumed within this time; after that, sources and web logs have a new day to load.
RESUME_HOURS = 12.0


@flow(NAME)
def daily_warehouse(
    full_refresh: bool = False,
    confirm_deletes: bool = False,
    from_step: str | None = None,
    reconform: bool = False,
    dry_run: bool = False,
) -> FlowResult:
    """Load every source that has a URL, every feed that has a landing folder and the web logs, then refresh the marts.

    A step that fails does not stop the others. If the last run failed, this one resumes it: steps that succeeded are
    not repeated, except those that depend on steps that had failed. Prefect's Retry does the same. A scheduled run
    always does everything.

    Args:
        full_refresh: Read every row of the sources again.
        confirm_deletes: Publish deletes even if more than DWH_MAX_DELETE_SHARE of a table is gone.
        reconform: Conform again what was made by another definition, also if it is more than DWH_RECONFORM_ROWS.
        from_step: Start with this step (as ingest-weblogs), whatever succeeded before.
        dry_run: Do each step by itself and roll it back.
    """
    settings = with_urls(Settings.load())
    sources = [*sources_with_url(settings), *landed_feeds(settings)]
    # Steps that need earlier ones: the marts, and sources with rows that are made from other sources' rows.
    needing = {MARTS, *(flow_name(name) for name in sources if follows_star(settings, name))}
    options = {
        "full_refresh": full_refresh,
        "confirm_deletes": confirm_deletes,
        "reconform": reconform,
        "dry_run": dry_run,
    }
    steps: dict[str, Callable[[], FlowResult]] = {
        **{flow_name(source): partial(flow_of(source), **options) for source in sources},
        WEBLOGS: partial(ingest_weblogs, reconform=reconform, dry_run=dry_run),
        MARTS: partial(refresh_marts, dry_run=dry_run),
    }
    if from_step is not None and from_step not in steps:
        raise WrongParameters(
            f"{NAME} has no step '{from_step}'.", hint=f"Its steps are: {', '.join(steps)}."
        )

    def run_steps(run: Run) -> FlowResult:
        names = _steps_to_do(run, tuple(steps), needing, from_step, full_refresh)
        results: list[FlowResult] = []
        failed: dict[str, Exception] = {}
        for name in _locked_last(run, names, sources):
            try:
                results.append(steps[name]())
            except Exception as error:
                failed[name] = error
                log(f"{name} failed: {error}", logging.ERROR)
        if failed:
            raise StepsFailed(failed, of=len(names))
        return FlowResult(NAME, run.run_id, steps=results, dry_run=dry_run)

    parameters = {
        "sources": list(sources),
        "full_refresh": full_refresh,
        "confirm_deletes": confirm_deletes,
        "reconform": reconform,
        "from_step": from_step,
    }
    return run_locked(
        settings.warehouse, NAME, run_steps, lock="daily", parameters=parameters, dry_run=dry_run
    )


def _locked_last(run: Run, names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Order the steps: sources that another run has locked come last, so that waiting for it delays no other step."""
    locked = {flow_name(source) for source in sources if is_held(run.connection, source_lock(source))}
    return sorted(names, key=lambda name: (name == MARTS, name in locked))


def _steps_to_do(
    run: Run, steps: Sequence[str], needing: AbstractSet[str], from_step: str | None, full_refresh: bool
) -> Sequence[str]:
    """Names of the steps that this run has to do."""
    launcher = prefect_run()
    may_resume = not launcher.is_scheduled and from_step is None and not full_refresh
    before = unfinished(
        run.connection, run, launcher.prefect_run_id, within_hours=RESUME_HOURS if may_resume else None
    )
    if before is None:
        return _beginning_with(from_step, steps)
    # A Retry in Prefect has the parameters of the run that it retries, its first step included.
    first = before.parameters.get("from_step")
    requested = _beginning_with(first if first in steps else None, steps)
    left = _outstanding(requested, steps, needing, before.succeeded)
    if not left:
        return _beginning_with(from_step, steps)
    resume_from(run.connection, run, before, {"from_step": first})
    if done := [f"{name} (run {before.succeeded[name]})" for name in requested if name not in left]:
        log(
            f"Resuming run {before.run_id} with {', '.join(left)}; already done: {', '.join(done)}. "
            f"To repeat all steps: `dwh run daily --from {steps[0]}`."
        )
    return left


def _outstanding(
    requested: Sequence[str], steps: Sequence[str], needing: AbstractSet[str], succeeded: Mapping[str, int]
) -> Sequence[str]:
    """Return the steps that have not succeeded, and those of `needing` that have to follow a step that runs or ran."""
    needs = {
        name: tuple(other for other in steps[: steps.index(name)] if other not in needing or name == MARTS)
        for name in needing
    }
    return outstanding([Step(name, needs.get(name, ())) for name in requested], succeeded)


def _beginning_with(name: str | None, steps: Sequence[str]) -> Sequence[str]:
    return steps[steps.index(name) :] if name else steps
