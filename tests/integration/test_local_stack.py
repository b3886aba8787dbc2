"""The local stack: server, worker and databases come up together, and go down without a trace."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from stack import local, prefect
from stack.errors import StackError
from stack.processes import HOME, is_alive

DEPLOY = """
from prefect import flow
from prefect.deployments import run_deployment
import sys
job = flow.from_source(source=sys.argv[1], entrypoint="job.py:wait_for_the_end")
job.deploy(name="job", work_pool_name="dwh", print_next_steps=False)
run_deployment("wait-for-the-end/job", timeout=0)
"""
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


def test_stack_keeps_data_and_addresses_over_a_stop_and_a_kill(home: Path) -> None:
    heard: list[str] = []
    first = local.up(home, progress=heard.append)
    assert heard[:2] == ["Prefect server starts", "PostgreSQL starts"]
    assert first.api_url is not None
    with psycopg.connect(first.postgres.url("warehouse")) as connection:
        connection.execute("create table kept (id int)")
    _create_variable(first.api_url, "kept")
    started = {process.pid for process in processes_of(home)}
    assert local.up(home).api_url == first.api_url
    assert {process.pid for process in processes_of(home)} == started
    for process in processes_of(home):
        process.kill()
        process.wait(10)
    assert not local.state(home).is_up
    again = local.up(home)
    assert again.api_url == first.api_url
    assert _variables(first.api_url) == ["kept"]
    with psycopg.connect(again.postgres.url("warehouse")) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
    local.down(home)
    assert processes_of(home) == []
    assert not local.state(home).is_up


def test_down_ends_a_flow_run_and_what_it_started(home: Path, tmp_path: Path) -> None:
    stack = local.up(home, databases=(), worker=True)
    assert not stack.postgres_is_running
    (tmp_path / "job.py").write_text(JOB)
    subprocess.run(
        [sys.executable, "-c", DEPLOY, str(tmp_path)], env=os.environ | stack.prefect_environment, check=True
    )
    pids = tmp_path / "pids"
    while not pids.exists() or not pids.read_text():
        time.sleep(0.1)
    job = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    local.down(home)
    assert [process for process in job if is_alive(process)] == []
    assert processes_of(home) == []


def test_down_leaves_a_foreign_process_with_a_remembered_number_alone(home: Path) -> None:
    foreign = subprocess.Popen(["sleep", "60"])
    try:
        for role in ("server", "worker"):
            (home / "prefect").mkdir(parents=True, exist_ok=True)
            state = {"pid": foreign.pid, "port": 1, "log_begin": 0}
            (home / "prefect" / f"{role}.json").write_text(json.dumps(state))
        assert not local.state(home).is_up
        local.down(home)
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_server_that_does_not_start_shows_what_it_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "prefect").mkdir(parents=True)
    (home / "prefect" / "prefect.db").write_text(
        "this is no database, and long enough for SQLite to notice it" * 9
    )
    with pytest.raises(StackError, match="file is not a database"):
        local.up(home, databases=())
    assert processes_of(home) == []


def test_secrets_and_addresses_of_a_users_own_prefect_stay_out(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://cloud.example/api")
    monkeypatch.setenv("PREFECT_API_KEY", "canary")
    prefect.launch_server(home)
    process = prefect.server(home).find()
    assert process is not None
    seen = process.environ()
    assert "PREFECT_API_KEY" not in seen
    assert seen["PREFECT_API_URL"] == f"http://127.0.0.1:{prefect.server(home).port}/api"


def _create_variable(api: str, name: str) -> None:
    body = json.dumps({"name": name, "value": 1}).encode()
    request = urllib.request.Request(f"{api}/variables/", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def _variables(api: str) -> list[str]:
    request = urllib.request.Request(f"{api}/variables/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return [variable["name"] for variable in json.load(answer)]
