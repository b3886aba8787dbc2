"""The local stack: server, worker and databases come up together, and go down without a trace."""

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

import psutil
import psycopg
import pytest

from generators.shop import create_schema
from stack import local, prefect
from stack.errors import StackError
from stack.postgres import EmbeddedPostgres
from stack.processes import HOME, Service, is_alive

JOB = """
import os, subprocess, time
from pathlib import Path
from prefect import flow

@flow
def wait_for_the_end():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(__file__).with_name("pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a home"
    # The worker asks for runs, and for cancelled ones, every ten seconds otherwise.
    (path / "prefect").mkdir(parents=True)
    (path / "prefect" / "profiles.toml").write_text(
        'active = "test"\n[profiles.test]\nPREFECT_WORKER_QUERY_SECONDS = "1"\n'
    )
    yield path
    local.down(path)


def processes_of(home: Path) -> list[psutil.Process]:
    found = [p for role in ("postgres/data", "prefect") for p in _bearing(f"{home}/{role}")]
    return [process for process in found if is_alive(process)]


def _bearing(path: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if path in process.cmdline() or process.environ().get(HOME) == path:
                yield process
        except psutil.Error:
            continue


def test_stack_keeps_data_and_addresses_over_a_kill_and_down_ends_it_with_the_runs_at_work(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user's own Prefect, whose secrets and addresses are to stay out of it.
    monkeypatch.setenv("PREFECT_API_URL", "https://cloud.example/api")
    monkeypatch.setenv("PREFECT_API_KEY", "canary")
    heard: list[str] = []
    first = local.up(home, progress=heard.append)
    assert heard[:2] == ["starting Prefect server", "starting PostgreSQL"]
    assert first.api_url is not None
    with psycopg.connect(first.postgres.url("warehouse")) as connection:
        connection.execute("create table kept (id int)")
    _create_variable(first.api_url, "kept")
    started = {process.pid for process in processes_of(home)}
    assert local.up(home).api_url == first.api_url
    assert {process.pid for process in processes_of(home)} == started
    for process in processes_of(home):
        process.kill()
        process.wait(60)
    assert not local.state(home).is_up
    again = local.up(home, worker=True)
    assert again.api_url == first.api_url
    assert _variables(first.api_url) == ["kept"]
    with psycopg.connect(again.postgres.url("warehouse")) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)

    for role in (prefect.server(home), prefect.worker(home)):
        process = role.find()
        assert process is not None
        seen = process.environ()
        assert "PREFECT_API_KEY" not in seen
        assert seen["PREFECT_API_URL"] == again.api_url
    (tmp_path / "job.py").write_text(JOB)
    deployment = _ask(
        again.api_url,
        "deployments/",
        {
            "flow_id": _ask(again.api_url, "flows/", {"name": "wait-for-the-end"})["id"],
            "name": "job",
            "work_pool_name": "dwh",
            "entrypoint": "job.py:wait_for_the_end",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}],
        },
    )["id"]
    _ask(again.api_url, f"deployments/{deployment}/create_flow_run", {})
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and bool(pids.read_text()))
    # The worker waits for what the job has started, in vain: after a while it is killed with all that is left.
    monkeypatch.setattr(Service.stop, "__defaults__", (6.0,))
    job = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    local.down(home)
    assert [process for process in job if is_alive(process)] == []
    assert processes_of(home) == []
    assert not local.state(home).is_up


@pytest.mark.slow
def test_killed_in_the_middle_of_a_run_everything_goes_on_where_it_was(home: Path) -> None:
    """kill -9 of server, worker, flow and PostgreSQL: what a power cut does."""
    api = str(dwh_up(home)["prefect_api"])
    known = {one["name"]: (one["id"], one["schedules"][0]["active"]) for one in scheduled(api)}
    assert "ingest-shop" in known
    shop = EmbeddedPostgres(home / "postgres").url("shop")
    create_schema(shop)
    ingest_shop = known["ingest-shop"][0]
    blocker = psycopg.connect(shop)
    blocker.execute("lock table customer in access exclusive mode")
    _ask(api, f"deployments/{ingest_shop}/create_flow_run", {})
    wait_for(lambda: blocked(shop))
    # One at a time: the one that was asked for, or one of the schedule that was there before it.
    (dead,) = runs_of(api, ingest_shop, "RUNNING")
    # Flows first: one that loses its PostgreSQL starts it again.
    for process in (everything := processes_of(home))[::-1]:
        process.kill()
    psutil.wait_procs(everything, 60)
    blocker.close()
    assert not local.state(home).is_up

    assert dwh_up(home)["prefect_api"] == api
    assert _ask(api, f"flow_runs/{dead}")["state"]["type"] == "CRASHED"
    assert {one["name"]: (one["id"], one["schedules"][0]["active"]) for one in scheduled(api)} == known
    # The slot of the dead run is free: one at a time, but not none for ever.
    before = runs_of(api, ingest_shop, "COMPLETED")
    _ask(api, f"deployments/{ingest_shop}/create_flow_run", {})
    wait_for(lambda: runs_of(api, ingest_shop, "COMPLETED") > before)
    (again, *_) = runs_of(api, ingest_shop, "COMPLETED") - before
    planned = _ask(api, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
    times = [(run["deployment_id"], run["expected_start_time"]) for run in planned]
    assert len(times) == len(set(times)) > 0
    with psycopg.connect(EmbeddedPostgres(home / "postgres").url("warehouse")) as warehouse:
        ended = warehouse.execute("select prefect_run_id::text, status from audit.run").fetchall()
    assert {(dead, "crashed"), (again, "succeeded")} <= set(ended)
    assert len(ended) == len(set(ended))


def dwh_up(home: Path) -> dict[str, str]:
    """`dwh up --worker`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "up", "--worker", "--json"],
        env={
            **environment,
            "DWH_HOME": str(home),
            "DWH_LAKE": str(home / "lake"),
            "DWH_GEOIP_URL": "http://127.0.0.1:9/none",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    addresses: dict[str, str] = json.loads(done.stdout)
    return addresses


def scheduled(api: str) -> list[dict[str, Any]]:
    """Deployments that have a schedule."""
    return [one for one in _ask(api, "deployments/filter", {}) if one["schedules"]]


def runs_of(api: str, deployment: str, state: str) -> set[str]:
    """Runs of a deployment that are in this state."""
    wanted = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": [state]}}},
    }
    return {run["id"] for run in _ask(api, "flow_runs/filter", wanted)}


def blocked(shop: str) -> bool:
    """Whether a run waits for the shop's table."""
    with psycopg.connect(shop) as connection:
        waiting = "select from pg_locks where not granted and relation = 'customer'::regclass"
        return connection.execute(waiting).rowcount > 0


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.2)


def test_down_leaves_a_foreign_process_with_a_remembered_number_alone(home: Path) -> None:
    foreign = subprocess.Popen(["sleep", "60"])
    try:
        for role in ("server", "worker"):
            state = {"pid": foreign.pid, "port": 1, "log_begin": 0}
            (home / "prefect" / f"{role}.json").write_text(json.dumps(state))
        assert not local.state(home).is_up
        local.down(home)
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_server_that_does_not_start_shows_its_log(home: Path) -> None:
    (home / "prefect" / "prefect.db").write_text(
        "this is no database, and long enough for SQLite to notice it" * 9
    )
    with pytest.raises(StackError, match="file is not a database"):
        local.up(home, databases=())
    assert processes_of(home) == []


def _create_variable(api: str, name: str) -> None:
    _ask(api, "variables/", {"name": name, "value": 1})


def _ask(api: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, {"Content-Type": "application/json"})
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # SQLite is busy: Prefect's own client asks again, too.
            if error.code != 503 or time.monotonic() > until:
                raise
            time.sleep(0.5)


def _variables(api: str) -> list[str]:
    return [variable["name"] for variable in _ask(api, "variables/filter", {})]
