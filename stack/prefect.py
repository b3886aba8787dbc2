"""A local Prefect server and worker on 127.0.0.1, with their state in the stack's home folder."""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path

from stack.errors import StackError
from stack.files import disk_errors, exclusive, free_port, full_disk, is_free
from stack.processes import Service

Progress = Callable[[str], None]
POOL = "dwh"
START_SECONDS = 300.0
# By default a server keeps flow runs for ever, and events, which are 72 MB a day, for a week.
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 86_400),
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P2D",
}


def server(home: Path) -> Service:
    """The Prefect server of a home folder, running or not."""
    return Service(home.resolve() / "prefect", "server")


def worker(home: Path) -> Service:
    """The process worker of a home folder, running or not."""
    return Service(home.resolve() / "prefect", "worker")


def environment(home: Path, port: int | None = None) -> dict[str, str]:
    """Return the environment for a process that uses the local server (`port` given) or none at all.

    Its variables replace every PREFECT_ variable but those of logging: a Cloud key or profile of the user must not
    leak into the local stack.
    """
    variables = {
        "PREFECT_HOME": str(home.resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # If kept in memory, slots of runs that die with their server would never be released.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        **RETENTION,
        "DO_NOT_TRACK": "1",
        "no_proxy": f"127.0.0.1,{os.environ.get('no_proxy') or os.environ.get('NO_PROXY', '')}",
    }
    if port is not None:
        variables["PREFECT_API_URL"] = api_url(port)
    return variables


def api_url(port: int) -> str:
    """URL of the server's API."""
    return f"http://127.0.0.1:{port}/api"


def launch_server(home: Path) -> Service:
    """Start the server unless it runs, without waiting for it (see `wait_for_server`)."""
    service = server(home)
    with disk_errors("Prefect's server", service.home):
        service.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(service.home / "lock"):
            if service.find() is None:
                _seed(service.home)
                port = service.port if service.port and is_free(service.port) else free_port()
                command = [sys.executable, "-m", "flows.local_server", str(port)]
                service.start(command, _inherited(environment(home, port)), port)
    return service


def wait_for_server(home: Path, progress: Progress = lambda _: None) -> str:
    """Wait until the server answers; returns its API URL. `progress` is called every second.

    Raises:
        StackError: it ended, or does not answer after `START_SECONDS`.
    """
    service = server(home)
    for _ in _ticks(service, progress):
        if service.find() is None:
            if "address already in use" not in service.output():
                raise _failure(service, "did not start")
            launch_server(home)
        if service.port and _ask(service.port, "GET", "/health"):
            break
    return api_url(service.port or 0)


def launch_worker(home: Path) -> Service:
    """Start a process worker of the local server on its work pool unless it runs (see `wait_for_worker`)."""
    service, port = worker(home), server(home).port
    with disk_errors("Prefect's worker", service.home), exclusive(service.home / "lock"):
        if service.find() is None:
            # 0 seconds of grace: when this worker is stopped, its runs are cancelled at once.
            command = [sys.executable, "-m", "flows.worker", POOL, "local", "0"]
            service.start(command, _inherited(environment(home, port)))
    return service


def wait_for_worker(home: Path, progress: Progress = lambda _: None) -> None:
    """Wait until the worker has created its pool and polls it; `progress` is called every second.

    Raises:
        StackError: it ended, or has not polled after `START_SECONDS`.
    """
    service, port = worker(home), server(home).port
    for _ in _ticks(service, progress):
        if service.find() is None:
            raise _failure(service, "did not start")
        workers = _ask(port or 0, "POST", f"/work_pools/{POOL}/workers/filter")
        if isinstance(workers, list) and any(one["status"] == "ONLINE" for one in workers):
            break


def prepare(target: Path | None = None) -> Path:
    """Create a server home once as a template for later ones: migrating an empty SQLite takes 15 seconds."""
    prepared = target or _prepared()
    prepared.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(prepared.parent / "lock"):
        if prepared.exists():
            return prepared
        with tempfile.TemporaryDirectory(dir=prepared.parent) as folder:
            service = launch_server(Path(folder))
            try:
                wait_for_server(Path(folder))
            finally:
                service.stop()
            draft = Path(folder) / "copy"
            draft.mkdir()
            with sqlite3.connect(service.home / "prefect.db") as database:
                database.execute("vacuum into ?", (str(draft / "prefect.db"),))
            shutil.copy(service.home / "memo_store.toml", draft)
            draft.rename(prepared)
    return prepared


def _prepared() -> Path:
    return Path(sys.prefix) / "share" / "dwh" / f"prefect-{version('prefect')}"


def _seed(home: Path) -> None:
    if (home / "prefect.db").exists() or not _prepared().exists():
        return
    for file in sorted(_prepared().iterdir(), reverse=True):
        fresh = home / f"{file.name}.new"
        shutil.copy(file, fresh)
        fresh.replace(home / file.name)


def _inherited(changes: dict[str, str]) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("PREFECT_") or k.startswith("PREFECT_LOGGING_")
    }
    return kept | changes


def _ticks(service: Service, progress: Progress) -> Iterator[None]:
    begin = time.monotonic()
    reported = 0
    while (waited := int(time.monotonic() - begin)) < START_SECONDS:
        yield
        if waited > reported:
            reported = waited
            progress(f"starting Prefect {service.role} ({waited} s)")
        time.sleep(0.2)
    raise _failure(service, f"does not answer after {START_SECONDS:.0f} seconds")


def _ask(port: int, method: str, path: str) -> object:
    """Return the JSON that the server answers; None if it does not answer with 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, f"/api{path}", "{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return json.load(answer) if answer.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _failure(service: Service, what: str) -> StackError:
    output = service.output()
    if "No space left on device" in output or "disk is full" in output:
        return full_disk(service.home)
    return StackError(
        f"Prefect's {service.role} {what}:\n{output.strip()}\n", hint=f"The complete log: {service.log}."
    )
