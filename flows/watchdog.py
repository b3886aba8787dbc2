"""Flow watchdog: mark dead runs, mail what is late, and send queued mail."""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg

from flows.databases import with_urls
from flows.deployments import read_declarations
from flows.engine import flow, log
from flows.notify import alert_rules
from flows.run_locked import run_locked
from stack.local import rotate_logs
from warehouse.db.connections import connect, without_password
from warehouse.db.schema_version import newest, revision_of
from warehouse.errors import AccessRefused, ConnectionFailed, WarehouseError
from warehouse.runs.alerts import Alert, Mailbox, compose, has_overdue_mail, send_now
from warehouse.runs.audit import Run, mark_crashed
from warehouse.runs.retention import prune_audit
from warehouse.runs.watchdog import Watch, watch
from warehouse.settings import Settings
from warehouse.sources.registry import sources_with_url

NAME = "watchdog"
TIMEOUT_SECONDS = 10.0
ATTEMPTS = 4
# Between the moment when a worker takes a run and that when its process begins; an image may have to be fetched.
PENDING_MINUTES = 15


@dataclass(frozen=True)
class Watched:
    """What a round of the watchdog found, and the runs that it marked as crashed in Prefect."""

    run_id: int
    found: Watch
    marked_in_prefect: tuple[str, ...]


@flow(NAME)
def watchdog() -> Watched:
    """Mark runs whose process is gone as crashed, mail what is late, and send queued mail."""
    # Nothing is started here: a database that is down is to be reported, not started in passing.
    settings = with_urls(Settings.load(), start=False)
    url = settings.warehouse
    declared = read_declarations(sources_with_url(settings))
    # A running watchdog is not late; the one to notice that it is, is `dwh watchdog` from cron.
    expectations = [expected for expected in declared.expectations if expected.flow != NAME]

    def look(run: Run) -> Watched:
        seen = watch(run.connection, expectations, run.rules)
        for run_id in seen.crashed:
            log(f"run {run_id} is dead: marked as crashed")
        for late in seen.late:
            log(
                f"{late.flow} is late: due {late.due_at:%Y-%m-%d %H:%M} UTC"
                f"{'' if late.is_news else ' (reported before)'}"
            )
        pruned = prune_audit(run.connection, settings.audit_days)
        if pruned.runs:
            log(
                f"{pruned.runs:,} runs of more than {settings.audit_days} days ago that changed nothing are removed"
            )
        for reminded in seen.reminded:
            log(f"{reminded} still has a problem: mailed again")
        return Watched(run.run_id, seen, _mark_in_prefect(run.connection))

    try:
        watched = run_locked(url, NAME, look, lock=NAME)
    except (ConnectionFailed, AccessRefused) as error:
        _mail_that_warehouse_is_down(settings, error)
        raise
    _mail_that_warehouse_is_back(settings)
    for rotated in rotate_logs(settings.home):
        log(f"{rotated} is rotated")
    _call_monitor(settings)
    return watched


def mark_dead_runs(settings: Settings) -> None:
    """Mark runs that died with this machine as crashed, in audit.run and on the local server, to free their slots."""
    with connect(with_urls(settings, start=False).warehouse, autocommit=True) as connection:
        is_made = revision_of(connection) == newest()
        if is_made:
            mark_crashed(connection, alert_rules())
        _mark_in_prefect(connection if is_made else None, is_local=True)


def _mark_in_prefect(connection: psycopg.Connection | None, *, is_local: bool = False) -> tuple[str, ...]:
    """Mark as crashed in Prefect what is crashed in audit.run and, on a local server, runs whose process is gone."""
    api_url = os.environ.get("PREFECT_API_URL")
    if not api_url:
        return ()
    try:
        alive = {"any_": ["PENDING", "RUNNING", "CANCELLING"]}
        running = _ask(api_url, "flow_runs/filter", {"flow_runs": {"state": {"type": alive}}})
        dead = [
            flow_run["id"] for flow_run in running if is_local and _is_gone(flow_run["infrastructure_pid"])
        ]
        # Its worker has taken it and died: it would hold its slots in deployment and work pool for ever.
        stuck = [flow_run["id"] for flow_run in running if _is_stuck(flow_run)]
        if connection is not None:
            dead += _crashed(connection, [flow_run["id"] for flow_run in running])
        for flow_run_id in dict.fromkeys([*dead, *stuck]):
            message = "The process is gone (watchdog)."
            if flow_run_id in stuck:
                message = f"It did not start within {PENDING_MINUTES} minutes: its worker is gone (watchdog)."
            state = {"type": "CRASHED", "name": "Crashed", "message": message}
            _ask(api_url, f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
    except (OSError, ValueError) as error:
        log(f"Prefect does not answer: {error}")
        return ()
    return tuple(dict.fromkeys([*dead, *stuck]))


def _crashed(connection: psycopg.Connection, flow_run_ids: list[str]) -> list[str]:
    found = connection.execute(
        """
        select prefect_run_id::text from audit.run where prefect_run_id = any(%s::uuid[])
        group by prefect_run_id having bool_and(status = 'crashed')
        """,
        [flow_run_ids],
    ).fetchall()
    return [flow_run_id for (flow_run_id,) in found]


def _is_stuck(flow_run: Mapping[str, Any]) -> bool:
    """Whether a run of ours has been PENDING for too long."""
    if flow_run["state_type"] != "PENDING" or "dwh" not in flow_run["tags"]:
        return False
    since = datetime.fromisoformat(flow_run["state"]["timestamp"])
    return datetime.now(UTC) - since > timedelta(minutes=PENDING_MINUTES)


def _is_gone(pid: str | None) -> bool:
    return pid is not None and not psutil.pid_exists(int(pid))


def _ask(api_url: str, path: str, body: object) -> list[dict[str, Any]]:
    # Plain HTTP: Prefect's own client takes long to import, and may start a server.
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    request = urllib.request.Request(f"{api_url}/{path}", json.dumps(body).encode(), headers)
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                answer: list[dict[str, Any]] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            # Prefect Cloud answers 429 to whom it finds too busy.
            if error.code not in (429, 503) or attempt == ATTEMPTS - 1:
                raise
            time.sleep(min(float(error.headers.get("Retry-After", 1)), TIMEOUT_SECONDS))
    raise AssertionError


def _call_monitor(settings: Settings) -> None:
    """Call DWH_HEARTBEAT_URL: a monitor elsewhere notices when the calls stop, as where mail is not delivered."""
    if settings.heartbeat_url is None:
        return
    with connect(settings.warehouse, autocommit=True) as connection:
        if has_overdue_mail(connection):
            log(
                "mail has waited for an hour: the monitor of DWH_HEARTBEAT_URL is not called", logging.WARNING
            )
            return
    try:
        with urllib.request.urlopen(settings.heartbeat_url.get_secret_value(), timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        # Without the URL: it is the monitor's password.
        log(f"the monitor of DWH_HEARTBEAT_URL cannot be called: {type(error).__name__}", logging.WARNING)


def _mail_that_warehouse_is_down(settings: Settings, error: WarehouseError) -> None:
    """Mail that the warehouse is down, once: its outbox is down with it."""
    marker = _marker(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None or marker.exists():
        return
    now = datetime.now(UTC)
    send_now(
        mailbox,
        compose(Alert("failed", "the warehouse", "", error.what, now, error.hint, link=alert_rules().ui_url)),
    )
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(now.isoformat())


def _mail_that_warehouse_is_back(settings: Settings) -> None:
    marker = _marker(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None or not marker.exists():
        return
    since = datetime.fromisoformat(marker.read_text())
    what = f"{without_password(settings.warehouse)} answers."
    send_now(mailbox, compose(Alert("recovered", "the warehouse", "", what, since)))
    marker.unlink()


def _marker(settings: Settings) -> Path:
    return settings.home / "warehouse-is-down"
