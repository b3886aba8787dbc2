"""Register deployments, schedules, work pool, automations and variables on a Prefect server; repeatable."""

from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from flows.deployments import Declared
from warehouse.runs.audit import code_version

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SOURCE_FLOW = "flows.ingest_source.ingest_source"


def deploy(declared: Declared, pool: str | None = None, folder: Path | None = None) -> dict[str, UUID]:
    """Register everything that is declared on the server of PREFECT_API_URL; returns the deployments' ids by name.

    Args:
        declared: What to register.
        pool: Name of the work pool, if not the declared one.
        folder: Working folder of runs on this machine: they read its .env and resolve relative paths from it.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        declared_pool = declared.resources["work_pool"]
        name = pool or declared_pool["name"]
        is_process = _ensure_pool(client, name, declared_pool)
        variables: dict[str, Any] = {"env": declared.resources.get("environment", {})}
        # On other machines the worker's own environment has the settings.
        if is_process and _is_here(str(client.api_url)):
            variables["working_dir"] = str((folder or Path.cwd()).resolve())
        ids = {d["name"]: _register(client, d, name, variables) for d in declared.deployments}
        _set_variables(client, declared.resources.get("variables", {}))
        _set_automations(client, declared.resources.get("automations", []))
    return ids


def pause_undeclared(declared: Declared) -> list[str]:
    """Pause the schedules of sources that are registered, but not declared or without a URL; returns the names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    names = {deployment["name"] for deployment in declared.deployments}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["dwh", "ingest"]))
    paused = set()
    with get_client(sync_client=True) as client:
        for found in client.read_deployments(deployment_filter=ours):
            if found.entrypoint == SOURCE_FLOW and found.name not in names:
                for schedule in filter(lambda one: one.active, found.schedules):
                    client.update_deployment_schedule(found.id, schedule.id, active=False)
                    paused.add(found.name)
    return sorted(paused)


def _ensure_pool(client: "SyncPrefectClient", name: str, declared: dict[str, Any]) -> bool:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    wanted = {"description": declared["description"], "concurrency_limit": declared["concurrency_limit"]}
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = (
            ProcessWorker.get_default_base_job_template() if declared["type"] == ProcessWorker.type else None
        )
        client.create_work_pool(
            WorkPoolCreate(name=name, type=declared["type"], base_job_template=template or {}, **wanted)
        )
        return bool(declared["type"] == ProcessWorker.type)
    client.update_work_pool(name, WorkPoolUpdate(**wanted))
    return bool(found.type == ProcessWorker.type)


def _register(
    client: "SyncPrefectClient", deployment: dict[str, Any], pool: str, variables: dict[str, Any]
) -> UUID:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.utilities.callables import parameter_schema

    module, _, function = deployment["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), function)
    limit = deployment["concurrency_limit"]
    return client.create_deployment(
        flow_id=client.create_flow_from_name(deployment["name"]),
        name=deployment["name"],
        version=code_version(),
        entrypoint=deployment["entrypoint"],
        description=deployment["description"],
        tags=deployment["tags"],
        parameters=deployment["parameters"],
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        concurrency_limit=limit["limit"],
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]),
        schedules=[
            DeploymentScheduleCreate(
                schedule=CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]),
                active=schedule.get("active", True),
            )
            for schedule in deployment.get("schedules", [])
        ],
        work_pool_name=pool,
        job_variables=variables,
    )


def _set_variables(client: "SyncPrefectClient", variables: dict[str, Any]) -> None:
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    for name, value in variables.items():
        if client.read_variable_by_name(name) is None:
            client.create_variable(VariableCreate(name=name, value=value))
        else:
            client.update_variable(VariableUpdate(name=name, value=value))


def _set_automations(client: "SyncPrefectClient", automations: list[dict[str, Any]]) -> None:
    from prefect.events.schemas.automations import AutomationCore

    for declared in automations:
        automation = AutomationCore.model_validate(declared)
        found = client.read_automations_by_name(automation.name)
        if found:
            client.update_automation(found[0].id, automation)
        else:
            client.create_automation(automation)


def _is_here(api_url: str) -> bool:
    host = urlsplit(api_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
