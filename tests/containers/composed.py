"""Services of a compose file under podman-compose, started in its conditions' order and asked for their health."""

import json
import os
import signal
import time
import urllib.request
from base64 import b64encode
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from tests.containers.podman import LEFT_OUT, ContainerError, run

HEALTHY_WITHIN_SECONDS = 900
# What fails here for a reason that is not ours: fetches from the internet.
MAY_FAIL = {"geoip"}
# Started by name alone.
SLOW = {"superset"}


class Composed:
    """The services of `folder`/docker-compose.yml as a project of podman-compose, with images that are there.

    Conditions of depends_on, which this podman-compose ignores with an older podman, are kept here.
    """

    def __init__(self, folder: Path, project: str, env: dict[str, str]) -> None:
        self.folder, self.project, self.env = folder, project, env
        text = (folder / "docker-compose.yml").read_text()
        self.services: dict[str, Any] = {
            name: service
            for name, service in yaml.safe_load(text)["services"].items()
            if service["image"].split(":")[0] not in LEFT_OUT
        }
        # The wheel's PostgreSQL is built without lz4; Prefect's needs pg_trgm. Runs begin at once.
        (folder / "standins.yml").write_text(text.replace("wal_compression=lz4", "wal_compression=pglz"))
        overrides = {
            "services": {
                "prefect-db": {"image": "postgres:15-bookworm"},
                "worker": {"environment": {"PREFECT_WORKER_QUERY_SECONDS": "2"}},
            }
        }
        (folder / "overrides.yml").write_text(yaml.safe_dump(overrides))
        self.failed: set[str] = set()

    def compose(self, *words: str, timeout: int = 900, check: bool = True) -> str:
        """Run podman-compose on the project."""
        files = ["-f", "standins.yml", "-f", "overrides.yml"]
        profiles = [word for name in sorted(self._profiles()) for word in ("--profile", name)]
        return run(
            "podman-compose", "--in-pod", "false", "-p", self.project, *files, *profiles, *words,
            env=self.env, cwd=self.folder, timeout=timeout, check=check,
        )  # fmt: skip

    def _profiles(self) -> set[str]:
        return {profile for service in self.services.values() for profile in service.get("profiles", [])}

    def container(self, name: str) -> str:
        """Name of a service's container."""
        return f"{self.project}_{name}_1"

    def podman(self, *words: str, timeout: int = 600, check: bool = True) -> str:
        """Run podman."""
        return run("podman", *words, env=self.env, timeout=timeout, check=check)

    @property
    def lasting(self) -> list[str]:
        """Services that stay up, in the order in which they start, but for SLOW ones."""
        return [
            name for name in self.order() if self.services[name].get("restart") != "no" and name not in SLOW
        ]

    def order(self) -> list[str]:
        """All services, each after those that it depends on."""
        graph = {
            name: [other for other in service.get("depends_on", {}) if other in self.services]
            for name, service in self.services.items()
        }
        return list(TopologicalSorter(graph).static_order())

    def up(self, *names: str) -> None:
        """Start services (unnamed: all), each when what it depends on is healthy or done."""
        for name in self.order():
            if name not in names if names else name in SLOW:
                continue
            self.compose("up", "-d", "--no-build", "--no-deps", name)
            self.wait(name)

    def wait(self, name: str) -> float:
        """Wait until a service is healthy, or has ended well; returns the seconds.

        Raises:
            ContainerError: It did not in time, or ended with an error; with the end of its log.
        """
        start = time.monotonic()
        while time.monotonic() < start + HEALTHY_WITHIN_SECONDS:
            if self.services[name].get("restart") == "no":
                code = self.podman("wait", self.container(name)).strip()
                if code == "0":
                    return time.monotonic() - start
                if name in MAY_FAIL:
                    self.failed.add(name)
                    return time.monotonic() - start
                break
            if self.is_healthy(name):
                return time.monotonic() - start
            time.sleep(1)
        raise ContainerError(f"{name} did not become ready:\n{self.logs(name)}")

    def is_healthy(self, name: str) -> bool:
        """Whether a service runs and its health check succeeds."""
        try:
            self.podman("healthcheck", "run", self.container(name))
        except ContainerError:
            return False
        return True

    def logs(self, name: str, lines: int = 40) -> str:
        """The end of a service's log."""
        return self.podman("logs", "--tail", str(lines), self.container(name), check=False)

    def execute(self, name: str, *command: str, timeout: int = 900) -> str:
        """Run a command in a service's container, with what its entry point sets."""
        entry = self.services[name].get("entrypoint", [])
        words = [word.replace("$$", "$") for word in entry]
        return self.podman("exec", self.container(name), *words, *command, timeout=timeout)

    def run(self, name: str, *command: str, timeout: int = 900, **variables: str) -> str:
        """Run a command in a container of its own, made like the service's."""
        words = [word for item in variables.items() for word in ("-e", "=".join(item))]
        return self.compose("run", "--rm", "--no-deps", "-T", *words, name, *command, timeout=timeout)

    def query(self, database: str, sql: str, container: str | None = None) -> list[list[str]]:
        """Rows of a query in a database, as text; in the container of its service unless another is named."""
        where = container or self.container(f"{database}-db")
        client = ["psql", "--host", "/tmp", "--username", database, "--dbname", database, "-AtX", "-c", sql]
        return [line.split("|") for line in self.podman("exec", where, *client).splitlines()]

    def crash(self, name: str) -> None:
        """kill -9 of a service's first process, as a crash would end it: its restart policy brings it back."""
        os.kill(
            int(self.podman("inspect", "--format", "{{.State.Pid}}", self.container(name))), signal.SIGKILL
        )

    def ask(self, path: str, body: object = None) -> Any:
        """Answer of Prefect's API at the published port."""
        auth = self._secret("prefect-server", "prefect_auth")
        return self._ask("prefect-server", f"api/{path}", f"Basic {b64encode(auth.encode()).decode()}", body)

    def place_order(self, order: object) -> Any:
        """Place an order through the shop's order API at the published port; the order that it made."""
        token = self._secret("api", "api_token")
        return self._ask("api", "api/v1/orders", f"Bearer {token}", order)

    def superset(self, path: str, body: object = None, token: str = "") -> Any:
        """Answer of Superset's API at the published port."""
        return self._ask("superset", path, f"Bearer {token}", body)

    def superset_password(self) -> str:
        """Password of Superset's user admin."""
        return self._secret("superset", "superset_admin_password")

    def _secret(self, name: str, file: str) -> str:
        return self.podman("exec", self.container(name), "cat", f"/run/secrets/{file}")

    def _ask(self, name: str, path: str, authorization: str, body: object) -> Any:
        headers, data = {"Authorization": authorization}, None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        port = self.services[name]["ports"][0].rsplit(":", 1)[0]
        request = urllib.request.Request(f"http://{port}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self.compose("down", "--volumes", "--timeout", "5", check=False)
