"""Mark flow runs whose process is gone as crashed in Prefect, so that they free their concurrency slots."""

import json
import os
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import psycopg

from flows.databases import with_urls
from flows.engine import log
from flows.notify import alert_rules
from warehouse.db.connections import connect
from warehouse.db.schema_version import newest, revision_of
from warehouse.runs.audit import mark_crashed
from warehouse.settings import Settings

TIMEOUT_SECONDS = 10.0
ATTEMPTS = 4
# How long a run may be PENDING, from a worker's taking it to the start of its process: it may have to pull an image.
PENDING_MINUTES = 15


def mark_dead_runs(settings: Settings) -> None:
    """Mark dead runs as crashed, in audit.run and on the local Prefect server, so that they free their slots."""
    with connect(with_urls(settings, start=False).warehouse, autocommit=True) as connection:
        is_migrated = revision_of(connection) == newest()
        if is_migrated:
            mark_crashed(connection, alert_rules())
        mark_in_prefect(connection if is_migrated else None, is_local=True)


def mark_in_prefect(connection: psycopg.Connection | None, *, is_local: bool = False) -> tuple[str, ...]:
    """Mark dead runs as crashed in Prefect; returns their flow run ids.

    These are runs that audit.run has as crashed, runs that stay PENDING for too long and, on a local server, runs whose
    process is gone.
    """
    api_url = os.environ.get("PREFECT_API_URL")
    if not api_url:
        return ()
    try:
        alive = {"any_": ["PENDING", "RUNNING", "CANCELLING"]}
        running = _ask(api_url, "flow_runs/filter", {"flow_runs": {"state": {"type": alive}}})
        dead = [
            flow_run["id"] for flow_run in running if is_local and _is_gone(flow_run["infrastructure_pid"])
        ]
        # A worker took the run and died: it would hold its slots of deployment and work pool for ever.
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
    """Return whether a run of our deployments has been PENDING for more than PENDING_MINUTES."""
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
            # Prefect Cloud limits the rate of requests with status 429.
            if error.code not in (429, 503) or attempt == ATTEMPTS - 1:
                raise
            time.sleep(min(float(error.headers.get("Retry-After", 1)), TIMEOUT_SECONDS))
    raise AssertionError
