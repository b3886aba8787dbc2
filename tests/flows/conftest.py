"""What the flows' tests share: one real Prefect server per test run, a shop and a warehouse per test."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stack import local
from stack.files import exclusive
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
    # When each of them was loaded.
    loaded: dict[str, tuple[datetime, datetime]]
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


@contextmanager
def deployments_lock() -> Iterator[None]:
    """Register deployments alone: they have the same names for all test processes that share the server."""
    with exclusive(Path(os.environ[RUN_FOLDER]) / "deployments.lock"):
        yield


@pytest.fixture
def tracked(prefect_server: None) -> Callable[..., Tracked]:
    """Asks Prefect about a flow run, once the server knows the tasks that are named."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        FlowRunFilter,
        FlowRunFilterId,
    )
    from prefect.exceptions import ObjectNotFound

    def ask(flow_run_id: object, tasks: Iterable[str] = ()) -> Tracked:
        expected = set(tasks)
        run_id = UUID(str(flow_run_id))
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(run_id)
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
            # Tasks tell the server of themselves by events, which arrive one by one, and after the run has ended.
            give_up_at, quiet_since, before = time.monotonic() + 120, time.monotonic(), None
            while True:
                found = client.read_task_runs(flow_run_filter=mine)
                known = {task.id: task.state and task.state.type for task in found}
                if known != before:
                    quiet_since, before = time.monotonic(), known
                has_ended = all(task.state is not None and task.state.is_final() for task in found)
                is_known = expected <= {task.name.rpartition("-")[0] for task in found}
                is_past = run.end_time and datetime.now(UTC) - run.end_time > timedelta(seconds=3)
                if has_ended and is_known and (is_past or time.monotonic() - quiet_since > 1):
                    break
                assert time.monotonic() < give_up_at, f"{expected} never ended: {found}"
                time.sleep(0.1)
            artifacts = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
            )
            while (parent_id := run.parent_task_run_id) is not None:
                with suppress(ObjectNotFound):
                    parent = client.read_task_run(parent_id)
                    break
                assert time.monotonic() < give_up_at, f"the server never heard of task run {parent_id}"
                time.sleep(0.1)
        found = sorted(found, key=lambda task: task.start_time)
        tables = {task.id: task.name for task in found if "." in task.name}
        names = {task.id: task.name.rpartition("-")[0] for task in found} | tables
        return Tracked(
            run.name,
            run.state_name,
            run.state.message,
            parent.flow_run_id if parent_id else None,
            {names[task.id]: task.run_count for task in found if task.id not in tables},
            {
                task.name: {names.get(origin.id, "") for origin in task.task_inputs.get("wait_for", [])}
                for task in found
                if task.id in tables
            },
            {task.name: (task.start_time, task.end_time) for task in found if task.id in tables},
            {artifact.key: artifact.data for artifact in artifacts},
        )

    return ask


def open_place(shop_url: str, warehouse_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A shop with one row of master data each and one order, an empty warehouse, and settings that name them."""
    pipeline = Pipeline(shop_url, warehouse_url)
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    for name, value in {
        "HOME": folder / "home",
        "LAKE": folder / "lake",
        "SHOP_URL": shop_url,
        "WAREHOUSE_URL": warehouse_url,
    }.items():
        monkeypatch.setenv(f"DWH_{name}", str(value))
    # A run without a change that takes long on a busy machine would show all of its lines.
    monkeypatch.setattr("flows.engine.HeldLines.PATIENCE_SECONDS", 600.0)
    return pipeline


@pytest.fixture
def place(
    prefect_server: None, shop_url: str, warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    """A place of one test alone, see `open_place`."""
    pipeline = open_place(shop_url, warehouse_url, tmp_path, monkeypatch)
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def module_place(
    prefect_server: None,
    module_database: Callable[[str], str],
    shop_template: str,
    warehouse_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], AbstractContextManager[Pipeline]]]:
    """A place in which a module's tests find what flows have left that ran once; its settings hold inside the block."""
    urls = module_database(shop_template), module_database(warehouse_template)
    opened: list[Pipeline] = []

    @contextmanager
    def inside() -> Iterator[Pipeline]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            opened.append(open_place(*urls, tmp_path_factory.mktemp("place"), monkeypatch))
            yield opened[-1]

    yield inside
    for pipeline in opened:
        pipeline.close()
