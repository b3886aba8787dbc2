"""Flow reconcile: every layer is compared with what the layer below makes of it, down to the marts."""

from collections.abc import Sequence

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse.reconcile import reconcile as engine
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings
from warehouse.sources.declaration import Source, read_source
from warehouse.weblogs.files.checkpoints import FEED

NAME = "reconcile"


@flow(NAME, covers=lambda: Settings.load().source)
def reconcile(repair: bool = False, sources: list[str] | None = None) -> Outcome:
    """Compare source, mirrors, star, web logs and stored marts; the run is stopped where they differ.

    Args:
        repair: Mend what differs, and nothing else; what it was is kept in audit.difference.
        sources: Sources to compare, `weblogs` among them; unset: the one of the settings, and the web logs.
    """
    settings = located(Settings.load())
    wanted = sources or [settings.source, FEED]
    declared = [read_source(name) for name in wanted if name != FEED]

    def compare(run: Run) -> Outcome:
        verdicts: list[Verdict] = []
        for source in declared:
            verdicts += reconcile_source(run, source, settings, repair)
        if FEED in wanted:
            verdicts += reconcile_feed(run, repair)
        engine.stop_on_differences(verdicts)
        return Outcome(NAME, run.run_id, verdicts=verdicts)

    parameters = {"repair": repair, "sources": wanted}
    return acquired(settings.warehouse, NAME, compare, lock=NAME, parameters=parameters)


@task
def reconcile_source(run: Run, source: Source, settings: Settings, repair: bool) -> Sequence[Verdict]:
    """Source, mirrors, star and stored marts."""
    ensure_alive(run)
    return engine.reconcile_source(run, source, settings.captured, repair=repair, progress=say)


@task
def reconcile_feed(run: Run, repair: bool) -> Sequence[Verdict]:
    """Files of the web logs, their fact, and what is counted of it."""
    ensure_alive(run)
    return engine.reconcile_feed(run, repair=repair, progress=say)
