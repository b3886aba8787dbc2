"""Lineage in Prefect: show each table that a run changed as a task of the flow run that materializes an asset."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from warehouse.sources.lineage import Lineage

COUNTS = ("read", "inserted", "updated", "expired", "deleted", "quarantined")
# Characters that Prefect does not allow in an asset's key.
NOT_IN_KEYS = re.compile(r"[^\w:/.@+-]")

Span = tuple[datetime, datetime]
Row = Mapping[str, Any]


def changes(load: Row) -> int:
    """Rows that a load changed or put into quarantine."""
    return sum(load[f"rows_{name}"] for name in COUNTS[1:])


def load_spans(loads: Sequence[Row], started_at: datetime) -> dict[str, Span]:
    """Estimate from when to when each table was loaded in a run that began at `started_at`.

    All loads of a transaction are recorded at its end, in the order in which they were made. So each is taken to end
    when the next one begins, and to last its recorded seconds.
    """
    spans: dict[str, Span] = {}
    next_begin = None
    for load in reversed(loads):
        end = load["loaded_at"] if next_begin is None else min(load["loaded_at"], next_begin)
        begin = next_begin = max(end - timedelta(seconds=float(load["seconds"])), started_at)
        last = spans.get(load["table_name"], (begin, end))
        spans[load["table_name"]] = (min(begin, last[0]), max(end, last[1]))
    return spans


def show_tables(run: Row, place: str, loads: Sequence[Row], origins: Lineage) -> None:
    """Show each table that the run changed as a task at the time of its load, downstream of its source tables.

    The graph on the run's page shows the lineage; Prefect Cloud also has a page for each asset. The loads have already
    ended, so the server gets one event for each task, with its final state.
    """
    from uuid import uuid4

    from prefect.assets import Asset
    from prefect.client.schemas.objects import TaskRun, TaskRunResult
    from prefect.context import AssetContext, FlowRunContext
    from prefect.events import emit_event
    from prefect.states import Completed
    from prefect.utilities.engine import emit_task_run_state_change_event

    def asset(name: str) -> Asset:
        key = name if "://" in name else f"{place}/{name.replace('.', '/', 1)}"
        return Asset(key=NOT_IN_KEYS.sub("_", key))

    counts: dict[str, dict[str, int]] = {}
    for load in loads:
        if changes(load) or load["source"] == "mart":
            counted = counts.setdefault(load["table_name"], dict.fromkeys(COUNTS, 0))
            counted.update({name: counted[name] + load[f"rows_{name}"] for name in COUNTS})
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    spans, ids = load_spans(loads, run["started_at"]), {name: uuid4() for name in counts}
    for table, rows in counts.items():
        (begin, end), sources = spans[table], origins.get(table, ())
        state: Any = Completed(timestamp=end)
        inputs: Any = {"wait_for": [TaskRunResult(id=ids[source]) for source in sources if source in ids]}
        task_run = TaskRun(
            id=ids[table],
            name=table,
            flow_run_id=context.flow_run.id,
            task_key=table,
            dynamic_key=str(run["run_id"]),
            task_inputs=inputs,
            state=state,
            run_count=1,
            expected_start_time=begin,
            start_time=begin,
            end_time=end,
            total_run_time=end - begin,
        )
        emit_task_run_state_change_event(task_run, None, state)
        emit_event(
            event="prefect.asset.materialization.succeeded",
            resource=AssetContext.asset_as_resource(asset(table)),
            related=[AssetContext.asset_as_related(asset(source)) for source in sources],
            payload=rows,
        )
    # One event for each source table, however many tables were made from it.
    for source in sorted({source for table in counts for source in origins.get(table, ())} - counts.keys()):
        emit_event(
            event="prefect.asset.referenced",
            resource=AssetContext.asset_as_resource(asset(source)),
            related=[],
        )
