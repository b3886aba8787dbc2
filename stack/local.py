"""Start, stop and inspect the local stack: embedded PostgreSQL, Prefect server, worker, and `dwh live`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.files import rotate_log
from stack.live import live
from stack.postgres import EmbeddedPostgres
from stack.prefect import (
    Progress,
    api_url,
    environment,
    launch_server,
    launch_worker,
    server,
    wait_for_server,
    wait_for_worker,
    worker,
)

DATABASES = ("shop", "warehouse")


@dataclass(frozen=True)
class LocalStack:
    """Which parts of a home folder's stack are running, and their addresses."""

    home: Path
    postgres: EmbeddedPostgres
    postgres_is_running: bool
    prefect_port: int | None
    worker_pid: int | None
    live_pid: int | None

    @property
    def is_up(self) -> bool:
        """Whether anything runs."""
        return self.postgres_is_running or any(
            part is not None for part in (self.prefect_port, self.worker_pid, self.live_pid)
        )

    @property
    def api_url(self) -> str | None:
        """URL of the Prefect server's API, if the server runs."""
        return api_url(self.prefect_port) if self.prefect_port else None

    @property
    def ui_url(self) -> str | None:
        """URL of the Prefect UI, if the server runs."""
        return f"http://127.0.0.1:{self.prefect_port}" if self.prefect_port else None

    @property
    def prefect_environment(self) -> dict[str, str]:
        """Environment of processes that report to this stack's Prefect server, or to none if it does not run."""
        return environment(self.home, self.prefect_port)


def state(home: Path) -> LocalStack:
    """State of the stack; starts nothing."""
    postgres = EmbeddedPostgres(home / "postgres")
    prefect, process_worker, process_live = server(home), worker(home).find(), live(home).find()
    return LocalStack(
        home=home.resolve(),
        postgres=postgres,
        postgres_is_running=postgres.is_running(),
        prefect_port=prefect.port if prefect.find() else None,
        worker_pid=process_worker.pid if process_worker else None,
        live_pid=process_live.pid if process_live else None,
    )


def up(
    home: Path,
    *,
    databases: Sequence[str] = DATABASES,
    server: bool = True,
    worker: bool = False,
    wait: bool = True,
    progress: Progress = lambda _: None,
) -> LocalStack:
    """Start what is not running yet, the Prefect server first, since it takes longest.

    `databases` are created in the embedded PostgreSQL, which is not started if there are none. `wait=False` returns
    while the Prefect server is starting (`wait_for_server` waits for it), unless a worker is started, which needs it.
    """
    if server or worker:
        progress("starting Prefect server")
        launch_server(home)
    if databases:
        progress("starting PostgreSQL")
        postgres = EmbeddedPostgres(home / "postgres")
        postgres.start()
        for name in databases:
            postgres.create_database(name)
    if worker or (server and wait):
        wait_for_server(home, progress)
        if worker:
            progress("starting Prefect worker")
            launch_worker(home)
            wait_for_worker(home, progress=progress)
    return state(home)


def rotate_logs(home: Path) -> list[Path]:
    """Rotate the logs of this home folder that have grown long, also while their processes run. Returns them."""
    logs = [server(home).log, worker(home).log, live(home).log, EmbeddedPostgres(home / "postgres").log]
    return [log for log in logs if rotate_log(log)]


def down(home: Path, progress: Progress = lambda _: None) -> None:
    """Stop all processes of this home folder; the data stay."""
    for service, name in (
        (live(home), "live"),
        (worker(home), "Prefect worker"),
        (server(home), "Prefect server"),
    ):
        if service.processes():
            progress(f"stopping {name}")
            service.stop()
    postgres = EmbeddedPostgres(home / "postgres")
    if postgres.data.exists():
        progress("stopping PostgreSQL")
        postgres.stop()
