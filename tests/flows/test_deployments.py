"""Deployments on a real server: all registered, again and again, and a real worker runs them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from flows.deploy import SOURCE_FLOW, deploy
from flows.deployments import FOLDER, Declared, read_declarations
from generators import geoip
from tests.flows.conftest import deployments_lock
from tests.pipeline import Pipeline
from tests.weblog_lake import lines
from warehouse.db.locks import session_lock
from warehouse.errors import DeclarationError
from warehouse.runs.audit import start_run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# The company's time zone.
ZONE = "Europe/Madrid"
SOURCES = ["northwind", "shop"]
NAMES = [
    "ingest-northwind",
    "ingest-shop",
    "ingest-orders",
    "ingest-companies",
    "ingest-leads",
    "ingest-weblogs",
    "daily-warehouse",
    "refresh-marts",
    "build-features",
    "publish-report",
    "export-tables",
    "reconcile",
    "geoip-update",
    "reclassify-weblogs",
    "remove-old-weblogs",
    "maintain-archive",
    "backfill",
    "rebuild",
    "watchdog",
]
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """No other test process registers deployments on the tests' server meanwhile."""
    with deployments_lock():
        yield


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Iterator["SyncPrefectClient"]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployed(client: "SyncPrefectClient", place: Pipeline, tmp_path: Path) -> Iterator[dict[str, UUID]]:
    """Deployments without their schedules, on a pool and a worker of this test alone; ids by name.

    Runs that the schedules of other tests have brought wait in the pool of those, and never come to this worker.
    """
    pool = f"test-{uuid.uuid4().hex[:8]}"
    ids = deploy(unscheduled("daily-warehouse"), pool, tmp_path).ids
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"},
        stdout=(tmp_path / "worker.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    yield ids
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_SECONDS)


def registered(client: "SyncPrefectClient", names: Sequence[str] = NAMES) -> dict[str, Any]:
    """What the server knows of each deployment."""
    known = {}
    for name in names:
        found = client.read_deployment_by_name(f"{name}/{name}")
        known[name] = (
            found.id,
            found.description,
            found.tags,
            found.parameters,
            found.global_concurrency_limit.limit if found.global_concurrency_limit else None,
            found.concurrency_options.collision_strategy if found.concurrency_options else None,
            [(s.schedule.cron, s.schedule.timezone, s.active) for s in found.schedules],
            found.work_pool_name,
            found.entrypoint,
        )
    return known


def places_of_command(template: Mapping[str, Any]) -> list[str]:
    """Where a pool's job template lets a run say which command its worker executes."""
    places = {
        "configuration": template["job_configuration"],
        "variables": template["variables"]["properties"],
    }
    return [place for place, names in places.items() if "command" in names]


@dataclass(frozen=True)
class Everything:
    """All deployments as they were registered, from when on, and what registering them again has printed."""

    ids: Mapping[str, UUID]
    begin: datetime
    first: dict[str, Any]
    printed: Sequence[str]


@pytest.fixture(scope="module")
def everything(client: "SyncPrefectClient", tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """Register everything, then once more by `dwh deploy` in a folder with a space, with nobody at the keyboard."""
    folder = tmp_path_factory.mktemp("deployed") / "some where"
    folder.mkdir()
    ids = deploy(read_declarations(SOURCES, time_zone=ZONE), folder=folder, reset=True).ids
    begin, first = datetime.now(UTC), registered(client)
    urls = {f"DWH_{name.upper()}_URL": "postgresql://127.0.0.1/any" for name in SOURCES}
    done = dwh_deploy(folder, {**os.environ, **urls, "DWH_TIME_ZONE": ZONE})
    assert done.returncode == 0, done.stderr
    return Everything(ids, begin, first, done.stdout.splitlines())


def test_everything_is_registered_and_registering_again_changes_nothing(
    client: "SyncPrefectClient", everything: Everything
) -> None:
    declared = read_declarations(SOURCES)
    assert [one["name"] for one in declared.deployments] == NAMES
    # It names what it keeps of an operator's changes: nothing.
    assert everything.printed[:-1] == [f"deployed {name}" for name in NAMES]
    assert registered(client) == everything.first

    _, description, tags, parameters, limit, strategy, schedules, pool, _ = everything.first[
        "daily-warehouse"
    ]
    assert description.startswith("Loads every source and the web logs")
    assert (tags, parameters) == (
        ["dwh", "daily"],
        {"full_refresh": False, "confirm_deletes": False, "from_step": None, "reconform": False},
    )
    assert (limit, strategy.value, pool) == (1, "ENQUEUE", "dwh")
    assert schedules == [("0 18 * * *", ZONE, True)]
    assert all(limit == 1 for _, _, _, _, limit, *_ in everything.first.values())

    pool = client.read_work_pool("dwh")
    assert (pool.concurrency_limit, places_of_command(pool.base_job_template)) == (4, [])
    assert len(client.read_automations_by_name(declared.resources["automations"][0]["name"])) == 1


def test_the_form_of_a_deployment_has_types_defaults_and_words(
    client: "SyncPrefectClient", everything: Everything
) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    ingest_shop = everything.ids["ingest-shop"]
    schema = client.read_deployment(ingest_shop).parameter_openapi_schema
    full_refresh = schema["properties"]["full_refresh"]
    assert (full_refresh["type"], full_refresh["default"]) == ("boolean", False)
    assert full_refresh["description"].startswith("Read every row again")
    with pytest.raises(PrefectHTTPStatusError, match="409"):
        client.create_flow_run_from_deployment(ingest_shop, parameters={"full_refresh": "perhaps"})


def test_the_server_itself_schedules_the_runs_of_every_deployment_with_a_schedule(
    client: "SyncPrefectClient", everything: Everything
) -> None:
    # Registering has deleted what was scheduled to come: whatever is found is new.
    declared = read_declarations(SOURCES, time_zone=ZONE)
    schedules = {one["name"]: one["schedules"][0] for one in declared.deployments if one.get("schedules")}
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        times = {name: scheduled_times(client, everything.ids[name], everything.begin) for name in NAMES}
        # Prefect's default: at least three runs ahead.
        if all(len(times[name]) >= 3 for name in schedules):
            break
        assert time.monotonic() < until, times
        time.sleep(0.5)
    assert {name for name, found in times.items() if found} == schedules.keys()
    for name, schedule in schedules.items():
        first = times[name][0].astimezone(ZoneInfo(schedule["timezone"]))
        expected = CronSim(schedule["cron"], first - timedelta(minutes=1))
        assert times[name] == [next(expected) for _ in times[name]], name


def scheduled_times(client: "SyncPrefectClient", deployment_id: UUID, after: datetime) -> list[datetime]:
    """When the runs start that the server has scheduled for a deployment."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
    )

    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(after_=after)),
    )
    # Plain datetimes: cronsim drops the time zone of Prefect's own. The server may be at work on the schedule that is
    # being replaced, and leave one of its runs: a deployment's limit of one run at a time makes nothing of it.
    return sorted(
        {
            datetime.fromtimestamp(run.expected_start_time.timestamp(), UTC)
            for run in runs
            if run.auto_scheduled
        }
    )


def test_a_worker_runs_what_the_api_asks_for_and_retry_goes_on_where_it_failed(
    client: "SyncPrefectClient", deployed: dict[str, UUID], place: Pipeline, tmp_path: Path
) -> None:
    from prefect.states import AwaitingRetry

    landing = tmp_path / "lake" / "landing" / "weblogs"
    landing.mkdir(parents=True)
    (landing / "access.log").write_bytes(lines(1, 10))
    with session_lock(place.warehouse, "source shop"):
        left_out = client.create_flow_run_from_deployment(deployed["ingest-shop"]).id
        state = ended(client, left_out, tmp_path)
        assert (state.type.value, state.name) == ("COMPLETED", "Skipped")
        assert "'source shop' is being loaded by test warehouse" in state.message

    day = client.create_flow_run_from_deployment(
        deployed["daily-warehouse"], parameters={"confirm_deletes": True}
    ).id
    # Nothing tells addresses' countries.
    assert ended(client, day, tmp_path).name == "Failed"
    geoip.write(tmp_path / "home" / "geoip" / "demo.mmdb")
    # What the button of that name in the UI does.
    client.set_flow_run_state(day, AwaitingRetry(), force=False)
    until = time.monotonic() + PATIENCE_SECONDS
    while client.read_flow_run(day).state.is_final() and time.monotonic() < until:
        time.sleep(0.2)
    assert ended(client, day, tmp_path).name == "Completed"
    runs = place.rows("select flow, deployment, status from audit.run order by run_id")
    assert runs == [
        ("ingest-shop", "ingest-shop", "skipped"),
        ("daily-warehouse", "daily-warehouse", "failed"),
        ("ingest-shop", None, "succeeded"),
        ("ingest-weblogs", None, "failed"),
        ("refresh-marts", None, "succeeded"),
        ("daily-warehouse", "daily-warehouse", "succeeded"),
        ("ingest-weblogs", None, "succeeded"),
        ("refresh-marts", None, "succeeded"),
    ]
    assert place.rows(
        "select count(distinct prefect_run_id) from audit.run where flow = 'daily-warehouse'"
    ) == [(1,)]
    assert place.rows(
        "select distinct launched_by, parameters -> 'confirm_deletes' from audit.run where deployment is not null "
        "order by 2"
    ) == [("somebody in Prefect", False), ("somebody in Prefect", True)]
    assert len(place.facts()) == 1
    assert place.rows("select count(*) from dwh.fact_weblog") == [(10,)]


# In one process: test_daily_warehouse.py.
@pytest.mark.slow
def test_a_run_that_a_worker_has_started_is_stopped_and_says_what_to_switch_on(
    client: "SyncPrefectClient", deployed: dict[str, UUID], place: Pipeline, tmp_path: Path
) -> None:
    place.capture()
    place.do("delete from order_item", "delete from sales_order")
    stopped = ended(client, client.create_flow_run_from_deployment(deployed["ingest-shop"]).id, tmp_path)
    assert (stopped.type.value, stopped.name) == ("FAILED", "Delete threshold exceeded")
    advice = "In Prefect: deployment ingest-shop, Run, Custom run, switch on `confirm_deletes`."
    assert advice in stopped.message
    last = "select launched_by, status, hint like '%%' || %s from audit.run order by run_id desc limit 1"
    assert place.rows(last, advice) == [("somebody in Prefect", "stopped", True)]
    confirmed = client.create_flow_run_from_deployment(
        deployed["ingest-shop"], parameters={"source": "shop", "confirm_deletes": True}
    )
    assert ended(client, confirmed.id, tmp_path).name == "Completed"
    assert place.facts() == []


@pytest.mark.parametrize(
    ("hint", "steps"),
    [
        ("Correct the shop.", []),
        ("Run `dwh migrate`, then `dwh status`.", []),
        ("`dwh run daily --from ingest-shop`", []),
        # A source without a URL has no deployment.
        ("`dwh run northwind --full-refresh`.", []),
        ("Read it: `dwh run shop --full-refresh`.", [("ingest-shop", "full_refresh")]),
        ("Is it moved? `dwh run shop --accept-source`.", [("ingest-shop", "accept_source")]),
        ("Run it again with --confirm-deletes.", [("daily-warehouse", "confirm_deletes")]),
        ("Repair them by `dwh reconcile --repair`.", [("reconcile", "repair")]),
        ("`dwh reconcile`: with `--repair` it repairs.", [("reconcile", None), ("reconcile", "repair")]),
        ("`dwh geoip update`, or `dwh generate weblogs`.", [("geoip-update", None)]),
        ("`dwh run retention --confirm-deletes`", [("remove-old-weblogs", "confirm_deletes")]),
    ],
)
def test_hints_say_where_the_ui_has_what_their_commands_do(
    hint: str, steps: list[tuple[str, str | None]], prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.engine import launching_deployment
    from flows.ui_hints import add_ui_steps

    monkeypatch.setenv("DWH_SHOP_URL", "postgresql://127.0.0.1/any")
    assert add_ui_steps(hint) == hint
    named = [
        f"deployment {name}, Run" + (f", Custom run, switch on `{switch}`" if switch else "")
        for name, switch in steps
    ]
    expected = f"{hint} In Prefect: {'; '.join(named)}." if steps else hint
    token = launching_deployment.set("daily-warehouse")
    assert add_ui_steps(hint) == add_ui_steps(expected) == expected
    launching_deployment.reset(token)


def some(*names: str) -> Declared:
    """The declarations of sources and of these flows: all nineteen take seconds to register."""
    declared = read_declarations(SOURCES)
    wanted = [one for one in declared.deployments if one["entrypoint"] == SOURCE_FLOW or one["name"] in names]
    return replace(declared, deployments=wanted)


def unscheduled(*names: str) -> Declared:
    """The same without schedules."""
    declared = some(*names)
    return replace(declared, deployments=[{**one, "schedules": []} for one in declared.deployments])


def ended(client: "SyncPrefectClient", flow_run_id: UUID, folder: Path) -> Any:
    """The state in which a flow run has ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (state := client.read_flow_run(flow_run_id).state).is_final():
        assert time.monotonic() < until, f"{state} {(folder / 'worker.log').read_text()}"
        time.sleep(0.3)
    return state


def test_what_is_dead_in_the_warehouse_is_marked_as_crashed_in_prefect(
    client: "SyncPrefectClient", tmp_path: Path, place: Pipeline
) -> None:
    from prefect.client.schemas.objects import StateType
    from prefect.states import Running

    from flows.dead_runs import mark_in_prefect

    ids = deploy(some("watchdog"), folder=tmp_path).ids
    dead, alive = (client.create_flow_run_from_deployment(ids["watchdog"]).id for _ in range(2))
    for run_id in (dead, alive):
        client.set_flow_run_state(run_id, Running(), force=True)
    for run_id, status in ((dead, "crashed"), (alive, "succeeded")):
        place.warehouse.execute(
            """
            insert into audit.run (flow, prefect_run_id, launched_by, code_version, host, pid, status)
            values ('watchdog', %s, 'schedule', 'x', 'a', 1, %s)
            """,
            [run_id, status],
        )
    with start_run(place.warehouse_url, flow="watchdog") as run:
        assert mark_in_prefect(run.connection) == (str(dead),)
    assert client.read_flow_run(dead).state.type == StateType.CRASHED
    assert client.read_flow_run(alive).state.type == StateType.RUNNING
    client.delete_flow_run(alive)


@pytest.mark.slow
def test_run_whose_heartbeat_stops_is_crashed_and_one_that_has_ended_under_any_name_is_not(
    client: "SyncPrefectClient", tmp_path: Path
) -> None:
    """The declared automation with the shortest time that Prefect allows, on a real server, without any worker."""
    from prefect.events.schemas.automations import AutomationCore
    from prefect.states import Completed, Running

    declared = some("watchdog")
    (automation,) = declared.resources["automations"]
    quick = {**automation, "name": "quick", "trigger": {**automation["trigger"], "within": 10}}
    ids = deploy(replace(declared, resources={**declared.resources, "automations": []}), folder=tmp_path).ids
    quick_id = client.create_automation(AutomationCore.model_validate(quick))
    skipped, dead = (client.create_flow_run_from_deployment(ids["watchdog"]).id for _ in range(2))
    for run_id in (skipped, dead):
        client.set_flow_run_state(run_id, Running(), force=True)
        heartbeat = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
            "related": [{"prefect.resource.id": "prefect.tag.dwh", "prefect.resource.role": "tag"}],
        }
        client._client.post("/events", json=[heartbeat]).raise_for_status()
    client.set_flow_run_state(skipped, Completed(name="Skipped"))
    state = ended(client, dead, tmp_path)
    assert (state.type.value, state.message) == ("CRASHED", "No heartbeat for two minutes.")
    # The server refuses to change a run that has ended: what counts is that nobody asks, in a round each five seconds.
    time.sleep(12)
    fired = {
        "event": {"name": ["prefect.automation.triggered"]},
        "resource": {"id": [f"prefect.automation.{quick_id}"]},
    }
    assert client._client.post("/events/filter", json={"filter": fired}).json()["total"] == 1
    state = client.read_flow_run(skipped).state
    assert (state.type.value, state.name) == ("COMPLETED", "Skipped")
    client.delete_automation(quick_id)


def test_run_that_is_pending_while_its_worker_dies_gives_its_slot_back(
    client: "SyncPrefectClient", tmp_path: Path, place: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Pending

    from flows import dead_runs

    deployment_id = deploy(unscheduled(), f"test-{uuid.uuid4().hex[:8]}", tmp_path).ids["ingest-shop"]

    def take() -> tuple[UUID, str]:
        flow_run_id = client.create_flow_run_from_deployment(deployment_id).id
        answer = client.set_flow_run_state(flow_run_id, Pending())
        return flow_run_id, answer.state.type.value

    stuck, state = take()
    assert state == "PENDING"
    assert take()[1] == "CANCELLED"
    assert str(stuck) not in dead_runs.mark_in_prefect(None)
    monkeypatch.setattr(dead_runs, "PENDING_MINUTES", -1)
    assert str(stuck) in dead_runs.mark_in_prefect(None)
    assert client.read_flow_run(stuck).state.type.value == "CRASHED"
    again, state = take()
    assert state == "PENDING"
    client.delete_flow_run(again)


def test_deployment_of_a_source_that_is_no_longer_declared_is_paused_until_it_is_again(
    client: "SyncPrefectClient", tmp_path: Path
) -> None:
    both = some()
    # Nothing but the pool: variables and automations are registered by other tests.
    both = replace(both, resources={"work_pool": both.resources["work_pool"]})
    names = [declared["name"] for declared in both.deployments]
    one = replace(both, deployments=[each for each in both.deployments if each["name"] != "ingest-northwind"])

    def paused() -> list[str]:
        return [name for name in names if client.read_deployment_by_name(f"{name}/{name}").paused]

    assert deploy(both, folder=tmp_path, reset=True).paused == []
    assert deploy(one, folder=tmp_path).paused == ["ingest-northwind"]
    assert deploy(one, folder=tmp_path).paused == []
    assert paused() == ["ingest-northwind"]
    assert deploy(both, folder=tmp_path).paused == []
    assert paused() == []
    # One that an operator had paused before stays paused.
    client.pause_deployment(client.read_deployment_by_name("ingest-northwind/ingest-northwind").id)
    assert deploy(one, folder=tmp_path).paused == []
    deploy(both, folder=tmp_path)
    assert paused() == ["ingest-northwind"]
    deploy(both, folder=tmp_path, reset=True)
    assert paused() == []


def test_what_an_operator_has_changed_on_the_server_stays_until_it_is_reset(
    client: "SyncPrefectClient", tmp_path: Path
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.events.schemas.automations import AutomationCore
    from prefect.workers.process import ProcessWorker

    declared = some("daily-warehouse", "refresh-marts")
    declared = replace(
        declared, deployments=[one for one in declared.deployments if one["name"] != "ingest-northwind"]
    )
    names = [one["name"] for one in declared.deployments]
    ids = deploy(declared, folder=tmp_path, reset=True).ids
    before = registered(client, names)
    automation = client.read_automations_by_name(declared.resources["automations"][0]["name"])[0]

    def schedule_of(name: str) -> UUID:
        return client.read_deployment(ids[name]).schedules[0].id

    client.update_deployment_schedule(ids["ingest-shop"], schedule_of("ingest-shop"), active=False)
    client.update_deployment_schedule(
        ids["refresh-marts"],
        schedule_of("refresh-marts"),
        schedule=CronSchedule(cron="3 3 * * *", timezone="UTC"),
    )
    client.pause_deployment(ids["refresh-marts"])
    client.update_deployment(
        ids["daily-warehouse"],
        DeploymentUpdate(
            parameters={**before["daily-warehouse"][3], "full_refresh": True}, concurrency_limit=2
        ),
    )
    # As a pool that was not made by us: each run could name its command.
    template = ProcessWorker.get_default_base_job_template()
    assert places_of_command(template) == ["configuration", "variables"]
    client.update_work_pool("dwh", WorkPoolUpdate(concurrency_limit=9, base_job_template=template))
    client.update_automation(
        automation.id,
        AutomationCore.model_validate(
            {**automation.model_dump(exclude={"id", "owner_resource"}), "enabled": False}
        ),
    )
    changed = registered(client, names)
    assert sum(changed[name] != before[name] for name in names) == 3

    def others() -> tuple[Any, ...]:
        return (
            client.read_work_pool("dwh").concurrency_limit,
            client.read_automations_by_name(automation.name)[0].enabled,
            [name for name in names if client.read_deployment(ids[name]).paused],
        )

    for _ in range(2):
        done = deploy(declared, folder=tmp_path)
        assert registered(client, names) == changed
        assert places_of_command(client.read_work_pool("dwh").base_job_template) == []
        assert others() == (9, False, ["refresh-marts"])
        assert done.kept == {
            "ingest-shop": ["schedules"],
            "refresh-marts": ["schedules"],
            "daily-warehouse": ["parameters", "concurrency_limit"],
            "work pool dwh": ["concurrency_limit"],
        }

    # A newer release brings other schedules: they reach what nobody has changed.
    new = {"cron": "7 7 * * *", "timezone": "UTC"}
    newer = replace(declared, deployments=[{**one, "schedules": [new]} for one in declared.deployments])
    deploy(newer, folder=tmp_path)
    schedules = {name: known[6] for name, known in registered(client, names).items()}
    assert schedules.pop("ingest-shop") == changed["ingest-shop"][6]
    assert schedules.pop("refresh-marts") == [("3 3 * * *", "UTC", True)]
    assert set(map(str, schedules.values())) == {str([("7 7 * * *", "UTC", True)])}

    deploy(declared, folder=tmp_path, reset=True)
    assert registered(client, names) == before
    assert others() == (4, True, [])
    assert deploy(declared, folder=tmp_path).kept == {}


def test_without_a_server_deploying_says_what_to_do(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = dwh_deploy(tmp_path, {**environment, "DWH_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "No Prefect server is known." in done.stderr
    assert "dwh up" in done.stderr


def dwh_deploy(folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`dwh deploy` with nobody at the keyboard."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "deploy"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_a_schedule_without_grace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text((FOLDER / "prefect.yaml").read_text())
    (tmp_path / "resources.yaml").write_text("grace_minutes: {}")
    with pytest.raises(DeclarationError, match="'ingest-northwind' is missing"):
        read_declarations(SOURCES, tmp_path)
