"""Resume a failed run of several steps: find the steps that still have to be done."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from warehouse.runs.audit import Run


@dataclass(frozen=True)
class Step:
    """A step of a flow that runs other flows. It is repeated if a step that it `needs` is repeated."""

    name: str
    needs: Collection[str] = ()


@dataclass(frozen=True)
class Attempt:
    """A failed run: its parameters, and the run in which each step has succeeded so far."""

    run_id: int
    parameters: Mapping[str, Any]
    # This run and those that it resumed.
    run_ids: Collection[int]
    succeeded: Mapping[str, int]


def unfinished(
    connection: psycopg.Connection,
    run: Run,
    prefect_run_id: str | None = None,
    *,
    within_hours: float | None = None,
) -> Attempt | None:
    """Return the previous run of the same flow if it failed, in the same Prefect run or in the last `within_hours`.

    None if it succeeded, or if it is too old to be resumed.
    """
    row = connection.execute(
        """
        with last as (
            select run_id, status, parameters, started_at, prefect_run_id from audit.run
            where flow = %(flow)s and run_id < %(run_id)s and status not in ('skipped', 'dry run')
            order by run_id desc limit 1
        )
        select run_id, parameters from last
        where status in ('failed', 'stopped', 'crashed', 'cancelled')
            and (prefect_run_id = %(prefect)s or started_at > clock_timestamp() - make_interval(secs => %(seconds)s))
        """,
        {
            "flow": run.flow,
            "run_id": run.run_id,
            "prefect": prefect_run_id,
            "seconds": (within_hours or 0) * 3600,
        },
    ).fetchone()
    if row is None:
        return None
    run_ids = _chain(connection, row[0])
    return Attempt(row[0], row[1], run_ids, _succeeded(connection, run_ids))


def resume_from(
    connection: psycopg.Connection, run: Run, attempt: Attempt, parameters: Mapping[str, object]
) -> None:
    """Record that `run` resumes `attempt`, and its parameters."""
    connection.execute(
        "update audit.run set resumes_run_id = %s, parameters = parameters || %s where run_id = %s",
        [attempt.run_id, Jsonb(dict(parameters)), run.run_id],
    )


def outstanding(steps: Sequence[Step], succeeded: Mapping[str, int]) -> tuple[str, ...]:
    """Return steps that have not succeeded yet, and steps that need a step which is repeated or was done after them.

    `steps` are in order; `succeeded` has the run in which each step last succeeded.
    """
    left: list[str] = []
    for step in steps:
        done = succeeded.get(step.name)
        if done is None or any(need in left or succeeded.get(need, 0) > done for need in step.needs):
            left.append(step.name)
    return tuple(left)


def _chain(connection: psycopg.Connection, run_id: int) -> list[int]:
    rows = connection.execute(
        """
        with recursive attempt as (
            select run_id, resumes_run_id from audit.run where run_id = %s
            union all
            select earlier.run_id, earlier.resumes_run_id
            from attempt join audit.run as earlier on earlier.run_id = attempt.resumes_run_id
        )
        select run_id from attempt
        """,
        [run_id],
    ).fetchall()
    return [run_id for (run_id,) in rows]


def _succeeded(connection: psycopg.Connection, run_ids: Collection[int]) -> dict[str, int]:
    rows = connection.execute(
        """
        select flow, max(run_id) from audit.run
        where parent_run_id = any(%s) and status = 'succeeded' group by flow
        """,
        [list(run_ids)],
    ).fetchall()
    return dict(rows)
