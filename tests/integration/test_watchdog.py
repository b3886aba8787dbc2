"""The watchdog: what should have succeeded and has not is mailed once, with or without Prefect."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest

from flows.deployments import read_declarations
from flows.watch_round import watch_round
from stack.files import free_port
from tests.mailserver import Inbox, mail_server
from warehouse.db.connections import connect, without_password
from warehouse.errors import ConnectionFailed
from warehouse.runs.alerts import Rules
from warehouse.runs.audit import start_run
from warehouse.runs.watchdog import Expectation, Watch, watch

DAILY = Expectation("daily-warehouse", "0 18 * * *", "America/Sao_Paulo", timedelta(minutes=90))
# Not due while a test runs.
RARE = Expectation(DAILY.flow, "0 0 29 2 *", "UTC", timedelta(0))
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
    assert (late.flow, late.due_at, late.is_new) == (DAILY.flow, LATE, True)
    (late,) = look(warehouse, LATE + timedelta(hours=2)).late
    assert late.is_new is False
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


def test_late_is_news_while_another_problem_is_open_unless_a_run_has_ended_badly_since(
    warehouse: psycopg.Connection,
) -> None:
    """A dead worker: the failure of Monday is open, and nothing has run since."""
    ran(warehouse, DUE - timedelta(days=2))
    warehouse.execute(
        "insert into audit.outbox (flow, kind, problem, subject, body_text, body_html) "
        "values (%s, 'failed', 'x', 'x', 'x', 'x')",
        [DAILY.flow],
    )
    ran(warehouse, DUE, "failed")
    (late,) = look(warehouse, LATE).late
    assert late.is_new is False
    (late,) = look(warehouse, LATE + timedelta(days=1)).late
    assert late.is_new is True
    ran(warehouse, DUE + timedelta(days=2), "skipped")
    (late,) = look(warehouse, LATE + timedelta(days=2)).late
    assert late.is_new is False
    assert mails(warehouse)[:2] == [(DAILY.flow, "failed"), (DAILY.flow, "late")]


def test_problem_that_lasts_is_mailed_again_once_a_day_until_a_run_succeeds(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    for flow, error in ((DAILY.flow, ValueError), (DAILY.flow, TypeError), ("backfill", ValueError)):
        with pytest.raises(error, match="no good"), start_run(warehouse_url, flow=flow):
            raise error("no good")
    (begin,) = warehouse.execute("select max(created_at) from audit.outbox").fetchone() or ()
    reminded = [
        list(look(warehouse, begin + timedelta(hours=hours), RARE).reminded)
        for hours in (0, 23, 25, 26, 48, 50, 75)
    ]
    once = [DAILY.flow]
    assert reminded == [[], [], once, [], [], once, once]
    subjects = warehouse.execute(
        "select subject from audit.outbox where kind = 'reminder' order by mail_id"
    ).fetchall()
    assert [subject for (subject,) in subjects] == [
        f"[dwh] daily-warehouse still has a problem: for {span}: daily-warehouse failed: ValueError: no good"
        for span in ("1 day", "2 days", "3 days")
    ]
    (text,) = (
        warehouse.execute("select body_text from audit.outbox order by mail_id desc limit 1").fetchone() or ()
    )
    for error in ("ValueError", "TypeError"):
        assert f"- daily-warehouse failed: {error}: no good: once since" in text
    off = watch(warehouse, [RARE], Rules(reminder_hours=0), begin + timedelta(days=9))
    assert not off.reminded
    with start_run(warehouse_url, flow=DAILY.flow):
        pass
    assert not look(warehouse, begin + timedelta(days=9), RARE).reminded


def test_process_of_live_that_is_gone_is_mailed_and_again_each_day_until_it_is_back(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    def rounds(*hours: int) -> list[tuple[list[str], list[str]]]:
        seen = [look(warehouse, begin + timedelta(hours=after), RARE) for after in hours]
        return [(list(one.gone), list(one.reminded)) for one in seen]

    warehouse.execute(
        "insert into audit.live (source, host, pid, started_at, since, asked_at) "
        "select 'shop', 'a', 1, at, at, at from (select now() - interval '1 minute' as at) as moment"
    )
    begin = datetime.now(UTC)
    assert rounds(0) == [([], [])]
    gone_since = "update audit.live set started_at = {0}, since = {0}, asked_at = {0}"
    warehouse.execute(gone_since.format("now() - interval '3 minutes'").encode())
    assert rounds(0, 1, 25, 26, 50) == [
        (["shop"], []),
        ([], []),
        ([], ["live-shop"]),
        ([], []),
        ([], ["live-shop"]),
    ]
    with start_run(warehouse_url, flow="live-shop"):
        pass
    assert rounds(75) == [([], [])]
    kinds = ("crashed", "reminder", "reminder", "recovered")
    assert mails(warehouse) == [("live-shop", kind) for kind in kinds]


def test_every_schedule_of_the_deployments_is_watched() -> None:
    declared = read_declarations(["shop"])
    found = {expectation.flow: expectation for expectation in declared.expectations}
    assert found.keys() == {
        deployment["name"] for deployment in declared.deployments if deployment.get("schedules")
    }
    assert found["daily-warehouse"] == DAILY
    assert {expectation.time_zone for expectation in found.values()} == {"America/Sao_Paulo"}


@pytest.fixture
def settings(tmp_path: Path, warehouse_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of a watchdog that no Prefect server is known to, and that tries a database that is down once."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.run_locked.DELAYS", ())
    given = {"DWH_HOME": str(tmp_path), "DWH_WAREHOUSE_URL": warehouse_url, "DWH_SHOP_URL": warehouse_url}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def inbox(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    with mail_server() as inbox:
        monkeypatch.setenv("DWH_SMTP_URL", f"smtp://127.0.0.1:{inbox.port}")
        monkeypatch.setenv("DWH_ALERT_TO", "ana@example.com")
        yield inbox


def test_from_cron_a_killed_run_and_a_late_one_are_mailed_once(
    settings: dict[str, str], inbox: Inbox, warehouse: psycopg.Connection
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
    # As cron runs it: no Prefect anywhere.
    done = subprocess.run([sys.executable, "-m", "cli.main", "watchdog"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 dead runs marked as crashed.")
    assert watch_round().found.crashed == []
    assert sorted(subject.split(":")[0] for subject in inbox.subjects) == [
        "[dwh] ingest-shop crashed",
        "[dwh] refresh-marts is late",
    ]
    states = warehouse.execute("select flow, status from audit.run order by run_id desc limit 3").fetchall()
    assert states == [("watchdog", "succeeded"), ("watchdog", "succeeded"), ("ingest-shop", "crashed")]


def test_a_warehouse_that_is_down_is_mailed_once_a_day_and_so_is_its_return_once(
    settings: dict[str, str], inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, began = Path(settings["DWH_HOME"]) / "warehouse-is-down", 0.0

    def rounds(url: str) -> None:
        monkeypatch.setenv("DWH_WAREHOUSE_URL", url)
        for _ in range(2):
            with nullcontext() if url == settings["DWH_WAREHOUSE_URL"] else pytest.raises(ConnectionFailed):
                watch_round()

    def let_hours_pass(hours: float) -> None:
        """Set back since when it is down, and when that was mailed last."""
        nonlocal began
        began -= hours * 3600
        mailed = marker.stat().st_mtime - hours * 3600
        marker.write_text((datetime.now(UTC) + timedelta(seconds=began)).isoformat())
        os.utime(marker, (mailed, mailed))

    down = f"postgresql://ana:s3cret@127.0.0.1:{free_port()}/warehouse"
    rounds(down)
    for hours in (23, 1, 23, 1):
        let_hours_pass(hours)
        rounds(down)
    monkeypatch.setenv("DWH_REMINDER_HOURS", "0")
    let_hours_pass(100)
    rounds(down)
    rounds(settings["DWH_WAREHOUSE_URL"])
    assert [subject.partition(": Cannot")[0] for subject in inbox.subjects] == [
        "[dwh] the warehouse failed",
        "[dwh] the warehouse still has a problem: for 1 day",
        "[dwh] the warehouse still has a problem: for 2 days",
        f"[dwh] the warehouse works again: {without_password(settings['DWH_WAREHOUSE_URL'])} answers.",
    ]
    assert not marker.exists()
    assert not [message for message in inbox.messages if "s3cret" in message.as_string()]


class Monitor(BaseHTTPRequestHandler):
    """An outside monitor: counts its calls."""

    calls: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.calls.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_monitor_is_called_after_each_round_unless_mail_waits_or_the_warehouse_is_down(
    settings: dict[str, str], warehouse: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Monitor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("DWH_HEARTBEAT_URL", f"http://127.0.0.1:{server.server_port}/ping/secret")
        watch_round()
        assert Monitor.calls == ["/ping/secret"]
        warehouse.execute(
            "insert into audit.outbox (flow, kind, problem, subject, body_text, body_html, attempts,"
            " created_at) values ('x', 'late', 'x', 'x', 'x', 'x', 3, now() - interval '61 minutes')"
        )
        watch_round()
        monkeypatch.setenv("DWH_WAREHOUSE_URL", "postgresql://me@127.0.0.1:1/x")
        with pytest.raises(ConnectionFailed):
            watch_round()
        assert Monitor.calls == ["/ping/secret"]
    finally:
        server.shutdown()
        server.server_close()
