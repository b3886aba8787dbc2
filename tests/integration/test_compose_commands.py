"""Commands of docker-compose.yml, run as they stand there, outside docker: what is replaced is said here.

Replaced: host names, ports and folders; Redis, which is not at hand, by what Prefect has without it; what the embedded
PostgreSQL is built without, that is lz4, and pg_trgm, so that Prefect's own database is SQLite.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.shop import create_schema
from stack.files import free_port
from stack.postgres import EmbeddedPostgres
from tests.conftest import MAJOR

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
NOT_HERE = re.compile(r"redis|PREFECT_SERVER_DATABASE_[DHPUN]|\$\{", re.IGNORECASE)
PATIENCE_SECONDS = 120
AUTH = "dwh:s3cret"


class Composed:
    """Services of the compose file as processes, in a folder of their own."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, processes: ExitStack) -> None:
        self.folder, self._processes = folder, processes
        self.port, health = free_port(), free_port()
        (folder / "prefect_db_password").write_text("SQLite has none")
        (folder / "prefect_auth").write_text(AUTH)
        for name in ("shop", "warehouse", "warehouse_owner"):
            (folder / f"{name}_url").write_text(postgres.url(name.removesuffix("_owner")))
        self.replaced = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "DWH_HOME": str(folder / "dwh"),
            "DWH_LAKE": str(folder / "lake"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_WORKER_WEBSERVER_PORT": str(health),
        }
        self.ports = {"4200": str(self.port), "8080": str(health)}

    def command(self, name: str, what: str = "command") -> list[str]:
        """A command of the service, its entry point before it, with the ports and folders of this test."""
        words = SERVICES[name].get("entrypoint", []) + SERVICES[name][what]
        return [self._here(word) for word in words]

    def _here(self, word: str) -> str:
        word = word.replace("$$", "$").replace("/run/secrets", str(self.folder))
        for port, other in self.ports.items():
            word = other if word == port else word.replace(f":{port}/", f":{other}/")
        return word

    def environment(self, name: str) -> dict[str, str]:
        declared = {
            variable: self._here(value)
            for variable, value in SERVICES[name]["environment"].items()
            # Without a value: passed on where it is set.
            if value is not None and not NOT_HERE.search(f"{variable}={value}")
        }
        return declared | self.replaced

    def run(self, name: str) -> None:
        """A service that ends."""
        done = subprocess.run(
            self.command(name), env=self.environment(name), cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{name}: {done.stdout} {done.stderr}"

    def start(self, name: str) -> None:
        """A service that stays, until it is healthy where it says what that is."""
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            self.command(name), env=self.environment(name), cwd=self.folder, stdout=log, stderr=log
        )
        self._processes.callback(lambda: (process.terminate(), process.wait(60)))
        if check := SERVICES[name].get("healthcheck"):
            probe = [sys.executable, *map(self._here, check["test"][2:])]
            self.wait_for(lambda: subprocess.run(probe, capture_output=True).returncode == 0, name)

    def wait_for(self, condition: Callable[[], bool], name: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < until, f"{name}: {(self.folder / f'{name}.log').read_text()}"
            time.sleep(0.5)

    def ask(self, path: str, body: object = None) -> Any:
        """Answer of the server's API."""
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.replaced['PREFECT_API_URL']}/{path}"
        login = f"Basic {b64encode(AUTH.encode()).decode()}"
        headers = {"Content-Type": "application/json", "Authorization": login}
        request = urllib.request.Request(address, data, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    """The databases of the compose file, on one server with the settings of warehouse-db."""
    words = SERVICES["warehouse-db"]["command"]
    settings = dict(word.split("=") for word in words[2::2])
    assert words == ["postgres", *(part for pair in settings.items() for part in ("-c", "=".join(pair)))]
    postgres = EmbeddedPostgres(tmp_path / "postgres", MAJOR, settings | {"wal_compression": "pglz"})
    postgres.start()
    try:
        for name in ("shop", "warehouse"):
            postgres.create_database(name)
        create_schema(postgres.url("shop"))
        with ExitStack() as processes:
            yield Composed(tmp_path, postgres, processes)
    finally:
        postgres.stop()


@pytest.mark.slow
def test_services_come_up_in_their_order_and_a_run_that_is_asked_for_is_done(composed: Composed) -> None:
    composed.run("prefect-migrate")
    composed.start("prefect-server")
    composed.start("prefect-services")
    # Whoever does not know the password is refused.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{composed.replaced['PREFECT_API_URL']}/admin/version")
    composed.run("migrate")
    composed.run("deploy")
    composed.start("worker")

    deployment = composed.ask("deployments/name/ingest-shop/ingest-shop")["id"]
    composed.ask(f"deployments/{deployment}/create_flow_run", {})
    # One at a time: the one that was asked for, or one of the schedule that was there before it.
    completed = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    composed.wait_for(lambda: composed.ask("flow_runs/count", completed) > 0, "worker")
    # What the services are for: the server itself, started without them, plans nothing.
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    composed.wait_for(lambda: composed.ask("flow_runs/count", planned) > 0, "prefect-services")
