"""Time a process that loads into PostgreSQL: seconds, and CPU seconds of its own and of the server's."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import psycopg

from stack.postgres import EmbeddedPostgres

DWH = [str(Path(sys.executable).with_name("dwh"))]


@dataclass(frozen=True)
class Timing:
    """One run of a process: how long it took, and the CPU seconds that it and the server's sessions spent."""

    seconds: float
    process_cpu: float
    server_cpu: float


def run_timed(
    command: Sequence[str], postgres: EmbeddedPostgres, environment: Mapping[str, str] | None = None
) -> Timing:
    """Run a command that has to succeed, after the server has finished background work of earlier ones."""
    settle(postgres)
    cpu, server_cpu, started = _children_cpu(), _server_cpu(postgres), time.perf_counter()
    with TemporaryFile("w+") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} failed:\n{output.read()[-3000:]}")
    process_cpu = _children_cpu() - cpu
    settle(postgres)
    return Timing(seconds, process_cpu, _server_cpu(postgres) - server_cpu)


def dwh_environment(folder: Path, **settings: str) -> dict[str, str]:
    """Return an environment for `dwh` with these settings and its own home, but none of the caller's settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    return {
        **own,
        "DWH_HOME": str(folder / "home"),
        **{f"DWH_{name.upper()}": value for name, value in settings.items()},
    }


def settle(postgres: EmbeddedPostgres) -> None:
    """Wait for the end of all sessions and of autovacuum, and write the server's dirty buffers."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        while connection.execute(
            "select from pg_stat_activity where pid <> pg_backend_pid() "
            "and backend_type in ('client backend', 'parallel worker', 'autovacuum worker')"
        ).rowcount:
            time.sleep(0.05)
        connection.execute("checkpoint")


def count(url: str, query: str) -> int:
    """Return the number that a query returns."""
    with psycopg.connect(url) as connection:
        (number,) = connection.execute(query.encode()).fetchone() or (0,)
    return int(number)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _server_cpu(postgres: EmbeddedPostgres) -> float:
    """Return the CPU seconds of sessions that have ended, which Linux adds to the postmaster's children."""
    pid = (postgres.data / "postmaster.pid").read_text().split("\n", 1)[0]
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
