"""Prefect's own settings for what a server keeps: it must understand them, or it does not start."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from stack.prefect import RETENTION

ROOT = Path(__file__).parents[2]
ASK = """
from prefect.settings import get_current_settings
server = get_current_settings().server
vacuum = server.services.db_vacuum
print(sorted(vacuum.enabled_vacuum_types), vacuum.retention_period.days, server.events.retention_period.days)
"""


def test_server_removes_old_flow_runs_and_events() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, **RETENTION},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['events', 'flow_runs', 'orphans'] 30 2"


def test_compose_keeps_as_long_as_the_local_stack() -> None:
    environment = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-prefect-environment"]
    assert {name: environment[name] for name in RETENTION} == RETENTION
