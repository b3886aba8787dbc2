"""Flow daily-warehouse: everything that a day brings, source by source, then the marts."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, identity, say
from flows.ingest_shop import ingest_shop
from flows.ingest_weblogs import ingest_weblogs
from flows.outcome import Outcome
from flows.refresh_marts import refresh_marts
from warehouse.errors import StepsFailed
from warehouse.runs.audit import Run
from warehouse.runs.resume import Step, outstanding, resume_from, unfinished
from warehouse.settings import Settings

NAME = "daily-warehouse"
StepName = Literal["ingest-shop", "ingest-weblogs", "refresh-marts"]
NEEDS = {"refresh-marts": ("ingest-shop", "ingest-weblogs")}
STEPS = tuple(Step(name, NEEDS.get(name, ())) for name in get_args(StepName))
# What failed this morning is gone on with; after that, the shop and the logs have a new day to tell of.
RESUME_HOURS = 12.0


@flow(NAME, covers=lambda: Settings.load().source)
def daily_warehouse(
    whole: bool = False,
    confirm_deletes: bool = False,
    from_step: StepName | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Ingest the shop and the web logs, then refresh the marts; a step that fails does not stop the others.

    Where the last day failed, this one goes on from there: what had succeeded is not done again, but for what needs
    the steps that had not. So does Prefect's Retry. A run by schedule always does everything.

    Args:
        whole: Read every row of the source again.
        confirm_deletes: Publish deletes even where more than DWH_MAX_DELETE_SHARE of a table is gone.
        from_step: Begin with this step, whatever had succeeded before.
        dry_run: Do each step by itself and roll it back.
    """
    settings = located(Settings.load())
    steps: dict[str, Callable[[], Outcome]] = {
        "ingest-shop": partial(ingest_shop, whole=whole, confirm_deletes=confirm_deletes, dry_run=dry_run),
        "ingest-weblogs": partial(ingest_weblogs, dry_run=dry_run),
        "refresh-marts": partial(refresh_marts, dry_run=dry_run),
    }

    def run_steps(run: Run) -> Outcome:
        names = _to_do(run, from_step, whole)
        outcomes: list[Outcome] = []
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                outcomes.append(steps[name]())
            except Exception as error:
                failed[name] = error
                say(f"{name} failed: {error}", logging.ERROR)
        if failed:
            raise StepsFailed(failed, of=len(names))
        return Outcome(NAME, run.run_id, steps=outcomes, dry_run=dry_run)

    parameters = {
        "source": settings.source,
        "whole": whole,
        "confirm_deletes": confirm_deletes,
        "from_step": from_step,
    }
    return acquired(settings.warehouse, NAME, run_steps, lock="daily", parameters=parameters, dry_run=dry_run)


def _to_do(run: Run, from_step: str | None, whole: bool) -> tuple[str, ...]:
    """Names of the steps that this run has to do."""
    who = identity()
    may_go_on = not who.is_scheduled and from_step is None and not whole
    before = unfinished(
        run.connection, run, who.prefect_run_id, within_hours=RESUME_HOURS if may_go_on else None
    )
    if before is None or before.parameters.get("source") != Settings.load().source:
        return _beginning_with(from_step)
    # A Retry has the parameters of the run that it tries again, the step that it began with included.
    begun_with = before.parameters.get("from_step")
    wanted = _beginning_with(begun_with if begun_with in get_args(StepName) else None)
    left = outstanding([step for step in STEPS if step.name in wanted], before.succeeded)
    if not left:
        return _beginning_with(from_step)
    resume_from(run.connection, run, before, {"from_step": begun_with})
    if done := [f"{name} (run {before.succeeded[name]})" for name in wanted if name not in left]:
        say(
            f"Going on from run {before.run_id} with {', '.join(left)}; done already: {', '.join(done)}. "
            f"To do all of it again: `dwh run daily --from {STEPS[0].name}`."
        )
    return left


def _beginning_with(name: str | None) -> tuple[str, ...]:
    names: tuple[str, ...] = get_args(StepName)
    return names[names.index(name) :] if name else names
