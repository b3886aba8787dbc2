"""What the flows' tests share: one real Prefect server per test run, a shop and a warehouse per test."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stack import local
from tests.conftest import RUN_FOLDER
from tests.pipeline import Pipeline


@dataclass(frozen=True)
class Tracked:
    """What Prefect knows of a flow run."""

    name: str
    state: str
    message: str
    parent: UUID | None
    # Attempts of each task, by its name, in the order of their start.
    tasks: dict[str, int]
    # Tables that it materialized, and those of them that each was made of.
    tables: dict[str, set[str]]
    # Kind of the artifact and what it holds, by key.
    artifacts: dict[str, Any]


@pytest.fixture(scope="session")
def prefect_server() -> None:
    """A Prefect server of this test run, known to this process before it imports Prefect."""
    assert "prefect" not in sys.modules, "import flows within tests: Prefect reads its settings when imported"
    stack = local.up(Path(os.environ[RUN_FOLDER]), databases=())
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(stack.prefect_environment)
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"


@pytest.fixture
def tracked(prefect_server: None) -> Callable[[object], Tracked]:
    """Asks Prefect about a flow run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        FlowRunFilter,
        FlowRunFilterId,
    )

    def ask(flow_run_id: object) -> Tracked:
        run_id = UUID(str(flow_run_id))
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(run_id)
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
            # Tasks tell the server of themselves by events, which arrive one by one, and after the run has ended.
            give_up_at, quiet_since, before = time.monotonic() + 120, time.monotonic(), None
            while True:
                tasks = client.read_task_runs(flow_run_filter=mine)
                known = {task.id: task.state and task.state.type for task in tasks}
                if known != before:
                    quiet_since, before = time.monotonic(), known
                has_ended = all(task.state is not None and task.state.is_final() for task in tasks)
                if has_ended and time.monotonic() - quiet_since > 1:
                    break
                assert time.monotonic() < give_up_at, f"tasks that never ended: {tasks}"
                time.sleep(0.1)
            artifacts = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
            )
            parent = client.read_task_run(run.parent_task_run_id) if run.parent_task_run_id else None
        tasks = sorted(tasks, key=lambda task: task.start_time)
        names = {task.id: task.name.rpartition("-")[0] for task in tasks}
        return Tracked(
            run.name,
            run.state_name,
            run.state.message,
            parent.flow_run_id if parent else None,
            {names[task.id]: task.run_count for task in tasks if "." not in names[task.id]},
            {
                names[task.id]: {names.get(origin.id, "") for origin in task.task_inputs.get("wait_for", [])}
                for task in tasks
                if "." in names[task.id]
            },
            {artifact.key: artifact.data for artifact in artifacts},
        )

    return ask


@pytest.fixture
def place(
    prefect_server: None, shop_url: str, warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    """A shop with one row of master data each and one order, an empty warehouse, and settings that name them."""
    pipeline = Pipeline(shop_url, warehouse_url)
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    for name, value in {
        "HOME": tmp_path / "home",
        "LAKE": tmp_path / "lake",
        "SHOP_URL": shop_url,
        "WAREHOUSE_URL": warehouse_url,
    }.items():
        monkeypatch.setenv(f"DWH_{name}", str(value))
    yield pipeline
    pipeline.close()
