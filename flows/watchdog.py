"""Flow watchdog: dead runs are marked, what is late is mailed, and the mail that waits is sent."""

import json
import os
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from flows.acquire import acquired
from flows.databases import found
from flows.deployments import read_declarations
from flows.engine import flow, say
from flows.notify import alert_rules
from warehouse.db.connections import connect, without_password
from warehouse.db.schema_version import newest, revision_of
from warehouse.errors import AccessRefused, ConnectionFailed, WarehouseError
from warehouse.runs.alerts import Alert, Mailbox, compose, send_now
from warehouse.runs.audit import Run, mark_crashed
from warehouse.runs.watchdog import Watch, watch
from warehouse.settings import Settings

NAME = "watchdog"
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Watched:
    """A round of the watchdog, and the runs that it marked in Prefect too."""

    run_id: int
    found: Watch
    marked_in_prefect: tuple[str, ...]


@flow(NAME, covers=lambda: "")
def watchdog() -> Watched:
    """Mark runs whose process is gone as crashed, mail what is late, and send the mail that waits."""
    # Nothing is started here: a database that is down is news, not something to mend in passing.
    settings = found(Settings.load())
    url = settings.warehouse
    # It is not late while it looks; what looks after it is `dwh watchdog` from cron.
    expectations = [expected for expected in read_declarations().expectations if expected.flow != NAME]

    def look(run: Run) -> Watched:
        seen = watch(run.connection, expectations, run.rules)
        for run_id in seen.crashed:
            say(f"run {run_id} is dead: marked as crashed")
        for late in seen.late:
            say(
                f"{late.flow} is late: due {late.due_at:%Y-%m-%d %H:%M} UTC{'' if late.is_news else ' (told before)'}"
            )
        return Watched(run.run_id, seen, _mark_in_prefect(run.connection))

    try:
        watched = acquired(url, NAME, look, lock=NAME)
    except (ConnectionFailed, AccessRefused) as error:
        _tell_without_warehouse(settings, error)
        raise
    _tell_that_it_is_back(settings)
    return watched


def mark_dead_runs(settings: Settings) -> None:
    """Mark what died with this machine as crashed, in audit.run and on the local server, whose slots are then free."""
    with connect(found(settings).warehouse, autocommit=True) as connection:
        is_made = revision_of(connection) == newest()
        if is_made:
            mark_crashed(connection, alert_rules())
        _mark_in_prefect(connection if is_made else None, is_local=True)


def _mark_in_prefect(connection: psycopg.Connection | None, *, is_local: bool = False) -> tuple[str, ...]:
    """Mark in Prefect what audit.run knows as crashed and, where all that runs runs here, whose process is gone."""
    api_url = os.environ.get("PREFECT_API_URL")
    if not api_url:
        return ()
    try:
        alive = {"any_": ["PENDING", "RUNNING", "CANCELLING"]}
        running = _ask(api_url, "flow_runs/filter", {"flow_runs": {"state": {"type": alive}}})
        dead = [
            flow_run["id"] for flow_run in running if is_local and _is_gone(flow_run["infrastructure_pid"])
        ]
        if connection is not None:
            dead += _crashed(connection, [flow_run["id"] for flow_run in running])
        for flow_run_id in dict.fromkeys(dead):
            message = "The process that ran it is gone (watchdog)."
            state = {"type": "CRASHED", "name": "Crashed", "message": message}
            _ask(api_url, f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
    except (OSError, ValueError) as error:
        say(f"Prefect could not be told: {error}")
        return ()
    return tuple(dict.fromkeys(dead))


def _crashed(connection: psycopg.Connection, flow_run_ids: list[str]) -> list[str]:
    found = connection.execute(
        """
        select prefect_run_id::text from audit.run where prefect_run_id = any(%s::uuid[])
        group by prefect_run_id having bool_and(status = 'crashed')
        """,
        [flow_run_ids],
    ).fetchall()
    return [flow_run_id for (flow_run_id,) in found]


def _is_gone(pid: str | None) -> bool:
    return pid is not None and not psutil.pid_exists(int(pid))


def _ask(api_url: str, path: str, body: object) -> list[dict[str, str]]:
    # Plain HTTP, as Prefect's own client may be missing, or start a server.
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    request = urllib.request.Request(f"{api_url}/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        told: list[dict[str, str]] = json.load(answer)
    return told


def _tell_without_warehouse(settings: Settings, error: WarehouseError) -> None:
    """Mail that the warehouse is down, once: its outbox is down with it."""
    memory = _memory(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None or memory.exists():
        return
    now = datetime.now(UTC)
    send_now(
        mailbox,
        compose(Alert("failed", "the warehouse", "", error.what, now, error.hint, link=alert_rules().ui_url)),
    )
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(now.isoformat())


def _tell_that_it_is_back(settings: Settings) -> None:
    memory = _memory(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None or not memory.exists():
        return
    since = datetime.fromisoformat(memory.read_text())
    what = f"{without_password(settings.warehouse)} answers."
    send_now(mailbox, compose(Alert("recovered", "the warehouse", "", what, since)))
    memory.unlink()


def _memory(settings: Settings) -> Path:
    return settings.home / "warehouse-is-down"
