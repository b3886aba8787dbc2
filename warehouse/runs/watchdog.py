"""The watchdog: find late flows, crashed runs and lasting problems, without Prefect, and queue mail about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
from cronsim import CronSim

from warehouse.runs.alerts import Rules, enqueue_gone_alert, enqueue_late_alert, enqueue_reminders
from warehouse.runs.audit import mark_crashed
from warehouse.runs.live_process import end, find_gone, read_processes

# Largest difference between the clocks of scheduler and database.
SKEW = timedelta(minutes=1)


@dataclass(frozen=True)
class Expectation:
    """A flow must have succeeded by each time of its cron schedule plus a grace period."""

    flow: str
    cron: str
    time_zone: str
    grace: timedelta

    def last_due(self, now: datetime) -> datetime:
        """Return the latest scheduled time whose grace period is over (UTC)."""
        local = (now - self.grace).astimezone(ZoneInfo(self.time_zone))
        # Start a minute later, to include this minute: backwards, cronsim returns only earlier times.
        fires = CronSim(self.cron, local + timedelta(minutes=1), reverse=True)
        return next(fire for fire in fires if fire <= local).astimezone(UTC)


@dataclass(frozen=True)
class Late:
    """A flow that has not succeeded since it was due."""

    flow: str
    due_at: datetime
    succeeded_at: datetime | None
    is_new: bool


@dataclass(frozen=True)
class Watch:
    """Result of one round of the watchdog."""

    crashed: Sequence[int]
    late: Sequence[Late]
    # Flows with lasting problems for which a reminder was queued.
    reminded: Sequence[str] = ()
    # Sources whose `dwh live` process is gone.
    gone: Sequence[str] = ()


def watch(
    connection: psycopg.Connection,
    expectations: Sequence[Expectation],
    rules: Rules,
    now: datetime | None = None,
) -> Watch:
    """Mark dead runs as crashed, and queue mail about them, about late flows and about lasting problems.

    `now` defaults to the database's time. Flows are not late for times before the first run in this warehouse.
    """
    crashed = mark_crashed(connection, rules)
    gone = find_gone(connection)
    for process in gone:
        with connection.transaction():
            enqueue_gone_alert(connection, process, rules)
            end(connection, process.source)
    row = connection.execute("select clock_timestamp(), min(started_at) from audit.run").fetchone()
    assert row is not None
    now, beginning = now or row[0], row[1]
    late = []
    for expectation in expectations:
        due = expectation.last_due(now)
        if beginning is None or due < beginning:
            continue
        succeeded = _last_success(connection, expectation.flow)
        if succeeded is None or succeeded[0] < due - SKEW:
            last = succeeded[1] if succeeded else None
            is_new = False
            # If a run has failed since then, its end was mailed. Still running or skipped runs were not mailed.
            if not _has_ended_badly(connection, expectation.flow, due):
                with connection.transaction():
                    is_new = enqueue_late_alert(
                        connection, expectation.flow, due + expectation.grace, last, rules
                    )
            late.append(Late(expectation.flow, due + expectation.grace, last, is_new))
    # Remind only of scheduled flows and live processes: flows that were started by hand need not succeed again.
    lasting = [expectation.flow for expectation in expectations] + [
        process.flow for process in read_processes(connection)
    ]
    with connection.transaction():
        reminded = enqueue_reminders(connection, lasting, now, rules)
    return Watch(crashed, late, reminded, [process.source for process in gone])


def _has_ended_badly(connection: psycopg.Connection, flow: str, due: datetime) -> bool:
    """Whether a run of the flow has started since `due` and ended in a way that was mailed."""
    return bool(
        connection.execute(
            "select from audit.run where flow = %s and started_at >= %s "
            "and status in ('failed', 'stopped', 'crashed') limit 1",
            [flow, due - SKEW],
        ).rowcount
    )


def _last_success(connection: psycopg.Connection, flow: str) -> tuple[datetime, datetime] | None:
    # A run counts for its start, not its end: it did not read what came later.
    return connection.execute(
        """
        select started_at, ended_at from audit.run where flow = %s and status = 'succeeded'
        order by started_at desc limit 1
        """,
        [flow],
    ).fetchone()
