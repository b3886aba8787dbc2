"""The watchdog: what should have succeeded and has not is mailed once, with or without Prefect."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from flows.deployments import read_declarations
from stack.files import free_port
from tests.mailserver import Inbox, mail_server, text_of
from warehouse.db.connections import connect
from warehouse.runs.alerts import Rules
from warehouse.runs.watchdog import Expectation, Watch, watch

DAILY = Expectation("daily-warehouse", "0 18 * * *", "America/Sao_Paulo", timedelta(minutes=90))
NOON = datetime(2026, 5, 10, 12, 0, tzinfo=UTC)
# 18:00 in São Paulo.
DUE = datetime(2026, 5, 10, 21, 0, tzinfo=UTC)
LATE = DUE + timedelta(minutes=90)


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[psycopg.Connection]:
    with connect(warehouse_url, autocommit=True) as connection:
        yield connection


def ran(
    warehouse: psycopg.Connection, started_at: datetime, status: str = "succeeded", flow: str = DAILY.flow
) -> None:
    warehouse.execute(
        """
        insert into audit.run (flow, launched_by, code_version, host, pid, started_at, ended_at, status)
        values (%s, 'schedule', 'x', 'a', 1, %s, %s, %s)
        """,
        [flow, started_at, started_at + timedelta(minutes=5), status],
    )


def look(warehouse: psycopg.Connection, now: datetime, *expectations: Expectation) -> Watch:
    return watch(warehouse, expectations or (DAILY,), Rules(), now)


def mails(warehouse: psycopg.Connection) -> list[tuple[str, str]]:
    return warehouse.execute("select flow, kind from audit.outbox order by mail_id").fetchall()


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (LATE, DUE),
        (LATE - timedelta(seconds=1), DUE - timedelta(days=1)),
        (LATE + timedelta(seconds=1), DUE),
        (LATE + timedelta(hours=23, minutes=59), DUE),
        (LATE + timedelta(days=1), DUE + timedelta(days=1)),
    ],
)
def test_a_flow_is_due_when_its_grace_is_over(now: datetime, due: datetime) -> None:
    assert DAILY.last_due(now) == due


def test_late_is_mailed_once_and_success_ends_it(warehouse: psycopg.Connection) -> None:
    ran(warehouse, DUE - timedelta(days=1))
    assert look(warehouse, LATE - timedelta(seconds=1)).late == []
    (late,) = look(warehouse, LATE).late
    assert (late.flow, late.due_at, late.is_news) == (DAILY.flow, LATE, True)
    (late,) = look(warehouse, LATE + timedelta(hours=2)).late
    assert late.is_news is False
    ran(warehouse, LATE + timedelta(hours=3))
    assert look(warehouse, LATE + timedelta(hours=4)).late == []
    assert mails(warehouse) == [(DAILY.flow, "late")]


@pytest.mark.parametrize("status", ["failed", "stopped", "crashed"])
def test_only_success_counts(status: str, warehouse: psycopg.Connection) -> None:
    ran(warehouse, DUE - timedelta(days=1))
    ran(warehouse, DUE, status)
    assert [late.flow for late in look(warehouse, LATE).late] == [DAILY.flow]


def test_a_run_that_started_before_its_time_has_not_read_what_came_then(
    warehouse: psycopg.Connection,
) -> None:
    ran(warehouse, DUE - timedelta(minutes=4))
    assert len(look(warehouse, LATE).late) == 1


def test_a_flow_that_never_ran_is_late_once_others_have_run(warehouse: psycopg.Connection) -> None:
    assert look(warehouse, LATE).late == []
    ran(warehouse, NOON, flow="watchdog")
    (late,) = look(warehouse, LATE).late
    assert late.succeeded_at is None
    row = warehouse.execute("select body_text from audit.outbox").fetchone()
    assert row is not None and "It has never succeeded." in row[0]


def test_nothing_is_expected_of_the_time_before_the_first_run(warehouse: psycopg.Connection) -> None:
    ran(warehouse, DUE + timedelta(minutes=10), flow="ingest-shop")
    assert look(warehouse, LATE + timedelta(hours=12)).late == []


def test_every_schedule_of_the_deployments_is_watched() -> None:
    declared = read_declarations(["shop"])
    found = {expectation.flow: expectation for expectation in declared.expectations}
    assert found.keys() == {
        deployment["name"] for deployment in declared.deployments if deployment.get("schedules")
    }
    assert found["daily-warehouse"] == DAILY
    assert {expectation.time_zone for expectation in found.values()} == {"America/Sao_Paulo"}


ROOT = Path(__file__).parents[2]


def dwh_watchdog(tmp_path: Path, url: str, inbox: Inbox) -> subprocess.CompletedProcess[str]:
    """`dwh watchdog` as cron runs it: no Prefect anywhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "watchdog"],
        env={
            **environment,
            "DWH_HOME": str(tmp_path),
            "DWH_WAREHOUSE_URL": url,
            "DWH_SHOP_URL": url,
            "DWH_SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
            "DWH_ALERT_TO": "ana@example.com",
        },
        capture_output=True,
        text=True,
    )


def test_from_cron_a_killed_run_and_a_late_one_are_mailed_once(
    tmp_path: Path, warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    week_ago = datetime.now(UTC) - timedelta(days=7)
    for expectation in read_declarations(["shop"]).expectations:
        if expectation.flow != "watchdog":
            is_late = expectation.flow == "refresh-marts"
            ran(warehouse, week_ago if is_late else datetime.now(UTC), flow=expectation.flow)
    warehouse.execute(
        """
        insert into audit.run (flow, launched_by, code_version, host, pid, status)
        values ('ingest-shop', 'schedule', 'x', 'a', 1, 'running')
        """
    )
    with mail_server() as inbox:
        for _ in range(2):
            done = dwh_watchdog(tmp_path, warehouse_url, inbox)
            assert done.returncode == 0, done.stderr
    assert sorted(subject.split(":")[0] for subject in inbox.subjects) == [
        "[dwh] ingest-shop crashed",
        "[dwh] refresh-marts is late",
    ]
    states = warehouse.execute("select flow, status from audit.run order by run_id desc limit 3").fetchall()
    assert states == [("watchdog", "succeeded"), ("watchdog", "succeeded"), ("ingest-shop", "crashed")]


def test_a_warehouse_that_is_down_is_mailed_once_and_so_is_its_return(
    tmp_path: Path, warehouse_url: str
) -> None:
    down = f"postgresql://ana:s3cret@127.0.0.1:{free_port()}/warehouse"
    with mail_server() as inbox:
        codes = [
            dwh_watchdog(tmp_path, url, inbox).returncode
            for url in (down, down, warehouse_url, warehouse_url)
        ]
    assert codes == [1, 1, 0, 0]
    assert [subject.split(":")[0] for subject in inbox.subjects] == [
        "[dwh] the warehouse failed",
        "[dwh] the warehouse works again",
    ]
    assert "s3cret" not in text_of(inbox.messages[0])
