"""Prefect Cloud, which cannot be reached from here: a stand-in with its path, its key and its 429.

Everything runs as its own process: a process knows one Prefect server.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.files import free_port
from stack.prefect import _seed
from tests.cloud_server import ACCOUNT, KEY, PREFIX, WORKSPACE
from tests.pipeline import Pipeline

UI = "https://app.cloud.example"
PATIENCE_SECONDS = 600
DEPLOY = """
import sys
from dataclasses import replace
from pathlib import Path
from flows.deploy import deploy
from flows.deployments import read_declarations
declared = read_declarations(["shop"])
ours = [{**one, "schedules": [{"cron": "* * * * *", "timezone": "UTC"}] if one["name"] == "ingest-shop" else []}
        for one in declared.deployments]
for _ in range(2):
    ids = deploy(replace(declared, deployments=ours), folder=Path.cwd()).ids
print(len(ids))
"""


class Cloud:
    """The stand-in, and processes that know its URL and key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.api = f"http://127.0.0.1:{self.port}{PREFIX}"
        home = folder / "prefect"
        home.mkdir()
        _seed(home)
        self.environment = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")} | {
            "PREFECT_HOME": str(home),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self.client = self.environment | {
            "PREFECT_HOME": str(folder / "client"),
            "PREFECT_API_URL": self.api,
            "PREFECT_API_KEY": KEY,
            "PREFECT_CLOUD_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_CLOUD_UI_URL": UI,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        self._log = (folder / "processes.log").open("a")
        self.processes = [self._start(self.environment, "-m", "tests.cloud_server", str(self.port))]

    def _start(self, environment: dict[str, str], *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=self.folder,
            stdout=self._log,
            stderr=self._log,
        )

    def start(self, *command: str) -> None:
        """Start a process that stays."""
        self.processes.append(self._start(self.client, *command))

    def run(self, *command: str) -> str:
        """Run a Python process to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *command], env=self.client, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, body: object, key: str = KEY) -> Any:
        """Answer of the stand-in to a POST; asked again where it is busy (429), or its database is (503)."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{self.api}/{path}", json.dumps(body).encode(), headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise
                time.sleep(0.5)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait; refused connections are those of a server that still starts."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if condition():
                    return
            except (ConnectionError, TimeoutError):
                pass
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise
            assert time.monotonic() < give_up_at, (self.folder / "processes.log").read_text()[-4000:]
            time.sleep(0.5)


@pytest.fixture
def cloud(
    shop_url: str, warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Cloud, Pipeline]]:
    place = Pipeline(shop_url, warehouse_url)
    place.open_shop()
    place.order(1, "2024-03-10")
    for name, value in {
        "HOME": tmp_path / "home",
        "LAKE": tmp_path / "lake",
        "SHOP_URL": shop_url,
        "WAREHOUSE_URL": warehouse_url,
        "ALERT_TO": "team@example.com",
        "SMTP_URL": f"smtp://127.0.0.1:{free_port()}",
    }.items():
        monkeypatch.setenv(f"DWH_{name}", str(value))
    cloud = Cloud(tmp_path)
    try:
        yield cloud, place
    finally:
        for process in reversed(cloud.processes):
            process.terminate()
        for process in cloud.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        place.close()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_deploy_worker_scheduled_run_watchdog_and_mail_links_work_with_a_workspace(
    cloud: tuple[Cloud, Pipeline],
) -> None:
    server, place = cloud
    server.until(lambda: server.ask("deployments/count", {}) == 0)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        server.ask("deployments/count", {}, key="wrong")

    # Twice: the second time changes nothing.
    deployed = int(server.run("-c", DEPLOY))
    assert server.ask("deployments/count", {}) == deployed
    server.start("-m", "cli.main", "worker", "--name", "cloud", "--grace", "0")

    # The first scheduled run loads.
    server.until(
        lambda: place.rows("select count(*) > 0 from audit.run where status = 'succeeded'") == [(True,)]
    )
    assert len(place.facts()) == 1
    [(run_id, launched_by)] = place.rows(
        "select prefect_run_id::text, launched_by from audit.run order by run_id limit 1"
    )
    assert launched_by == "schedule"
    ids = {"flow_runs": {"id": {"any_": [run_id]}}}
    server.until(
        lambda: [run["state"]["name"] for run in server.ask("flow_runs/filter", ids)] == ["Completed"]
    )
    assert server.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})

    # A run that fails is mailed with a link to the workspace's page of the run.
    place.do("alter table product rename to goods")
    failed = "select prefect_run_id::text from audit.run where status = 'failed' order by run_id limit 1"
    server.until(lambda: place.rows(failed))
    [(failed_id,)] = place.rows(failed)
    server.until(lambda: place.rows("select count(*) from audit.outbox") == [(1,)])
    link = f"{UI}/account/{ACCOUNT}/workspace/{WORKSPACE}/runs/flow-run/{failed_id}"
    assert place.rows("select position(%s in body_text) > 0 from audit.outbox", link) == [(True,)]

    # A run that is dead in the warehouse is marked in Cloud by a watchdog that knows its key.
    deployment = server.ask("deployments/filter", {"deployments": {"name": {"any_": ["refresh-marts"]}}})[0][
        "id"
    ]
    dead = server.ask(f"deployments/{deployment}/create_flow_run", {})["id"]
    running = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    server.ask(f"flow_runs/{dead}/set_state", running)
    place.warehouse.execute(
        """
        insert into audit.run (flow, prefect_run_id, launched_by, code_version, host, pid, status)
        values ('refresh-marts', %s, 'schedule', 'x', 'elsewhere', 1, 'crashed')
        """,
        [dead],
    )
    server.run("-m", "cli.main", "watchdog")
    [found] = server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [dead]}}})
    assert found["state"]["type"] == "CRASHED"
