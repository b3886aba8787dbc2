"""Register deployments, schedules, work pool and automations on a Prefect server; repeatable.

What an operator has changed there stays (`flows.operator_changes`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from flows.deployments import Declared
from flows.operator_changes import PAUSED_BY_US, OperatorChanges
from warehouse.runs.audit import code_version

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SOURCE_FLOW = "flows.ingest_source.ingest_source"


@dataclass(frozen=True)
class Deployed:
    """Ids of the deployments by name, properties kept since an operator changed them, and names of paused deployments.

    `kept` has the properties by deployment or work pool.
    """

    ids: Mapping[str, UUID]
    kept: Mapping[str, Sequence[str]]
    paused: Sequence[str]


def deploy(
    declared: Declared, pool: str | None = None, folder: Path | None = None, *, reset: bool = False
) -> Deployed:
    """Register everything that is declared on the server of PREFECT_API_URL; what an operator has changed there stays.

    Deployments of sources that are no longer declared, or have no URL, are paused until they are again.

    Args:
        declared: What to register.
        pool: Name of the work pool, if not the declared one.
        folder: Working folder of runs on this machine: they read its .env and resolve relative paths from it.
        reset: Deploy everything as it is declared, whatever an operator has changed, and resume what is paused.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        changes = OperatorChanges(client, reset=reset)
        declared_pool = declared.resources["work_pool"]
        name = pool or declared_pool["name"]
        is_process = _ensure_pool(client, changes, name, declared_pool)
        variables: dict[str, Any] = {"env": declared.resources.get("environment", {})}
        # A worker on another machine takes the settings from its own environment and folder.
        if is_process and _is_here(str(client.api_url)):
            variables["working_dir"] = str((folder or Path.cwd()).resolve())
        ids = {
            deployment["name"]: _register(client, changes, deployment, name, pool is not None, variables)
            for deployment in declared.deployments
        }
        if reset:
            for deployment_id in ids.values():
                client.resume_deployment(deployment_id)
        _set_automations(client, declared.resources.get("automations", []), reset)
        paused = _pause_undeclared(client, changes, ids.keys())
    return Deployed(ids, changes.kept, paused)


def _pause_undeclared(
    client: "SyncPrefectClient", changes: OperatorChanges, declared: Collection[str]
) -> list[str]:
    """Pause registered deployments of sources that are not declared; resume those that we paused and that now are.

    Returns the names of the deployments that were paused now.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["dwh", "ingest"]))
    paused = []
    for found in client.read_deployments(deployment_filter=ours):
        deployed = changes.deployed(found.name)
        if found.name in declared:
            if deployed.pop(PAUSED_BY_US, None):
                client.resume_deployment(found.id)
                changes.remember(found.name, deployed)
        elif found.entrypoint == SOURCE_FLOW and not found.paused:
            client.pause_deployment(found.id)
            changes.remember(found.name, {**deployed, PAUSED_BY_US: "yes"})
            paused.append(found.name)
    return sorted(paused)


def _ensure_pool(
    client: "SyncPrefectClient", changes: OperatorChanges, name: str, declared: dict[str, Any]
) -> bool:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    properties = {"description": declared["description"], "concurrency_limit": declared["concurrency_limit"]}
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = (
            ProcessWorker.get_default_base_job_template() if declared["type"] == ProcessWorker.type else None
        )
        values = changes.merge(f"work pool {name}", properties, None)
        template = _with_fixed_command(template or {})
        client.create_work_pool(
            WorkPoolCreate(name=name, type=declared["type"], base_job_template=template, **values)
        )
        return bool(declared["type"] == ProcessWorker.type)
    current = {"description": found.description, "concurrency_limit": found.concurrency_limit}
    values = changes.merge(f"work pool {name}", properties, current)
    if found.type == ProcessWorker.type:
        values["base_job_template"] = _with_fixed_command(found.base_job_template)
    client.update_work_pool(name, WorkPoolUpdate(**values))
    return bool(found.type == ProcessWorker.type)


def _with_fixed_command(template: dict[str, Any]) -> dict[str, Any]:
    """Remove the command from a process pool's job template: no run may set it, and the worker uses its default."""
    if not template:
        return template
    variables = template["variables"]
    return {
        **template,
        "job_configuration": _without_command(template["job_configuration"]),
        "variables": {**variables, "properties": _without_command(variables.get("properties", {}))},
    }


def _without_command(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != "command"}


def _register(
    client: "SyncPrefectClient",
    changes: OperatorChanges,
    deployment: dict[str, Any],
    pool: str,
    is_given_pool: bool,
    variables: dict[str, Any],
) -> UUID:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.callables import parameter_schema

    name = deployment["name"]
    module, _, function = deployment["entrypoint"].rpartition(".")
    schema = parameter_schema(getattr(import_module(module), function)).model_dump_for_openapi()
    limit = deployment["concurrency_limit"]
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]),
            active=schedule.get("active", True),
        )
        for schedule in deployment.get("schedules", [])
    ]
    declared = {
        "description": deployment["description"],
        "tags": deployment["tags"],
        "parameters": deployment.get("parameters", {}),
        "concurrency_limit": limit["limit"],
        "concurrency_options": ConcurrencyOptions(collision_strategy=limit["collision_strategy"]).model_dump(
            mode="json"
        ),
        "schedules": [_schedule(one) for one in schedules],
        "work_pool_name": pool,
        "job_variables": variables,
    }
    try:
        found = client.read_deployment_by_name(f"{name}/{name}")
    except ObjectNotFound:
        current = None
    else:
        current = {
            "description": found.description,
            "tags": found.tags,
            "parameters": found.parameters,
            "concurrency_limit": found.global_concurrency_limit.limit
            if found.global_concurrency_limit
            else None,
            "concurrency_options": found.concurrency_options.model_dump(mode="json")
            if found.concurrency_options
            else None,
            "schedules": [_schedule(one) for one in found.schedules],
            "work_pool_name": pool if is_given_pool else found.work_pool_name,
            "job_variables": found.job_variables,
        }
    values = changes.merge(name, declared, current)
    # Parameters that the flow no longer has are dropped; new ones come from the declaration.
    kept = {key: value for key, value in values["parameters"].items() if key in schema["properties"]}
    values["parameters"] = {**declared["parameters"], **kept}
    values["schedules"] = [DeploymentScheduleCreate.model_validate(one) for one in values["schedules"]]
    if values["concurrency_options"]:
        values["concurrency_options"] = ConcurrencyOptions.model_validate(values["concurrency_options"])
    return client.create_deployment(
        flow_id=client.create_flow_from_name(name),
        name=name,
        version=code_version(),
        entrypoint=deployment["entrypoint"],
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
        **values,
    )


def _schedule(one: Any) -> dict[str, Any]:
    """Convert a declared schedule, or one of the server, to a form in which both compare equal."""
    return {
        "schedule": one.schedule.model_dump(mode="json"),
        "active": one.active,
        "parameters": one.parameters or {},
        "slug": one.slug,
    }


def _set_automations(client: "SyncPrefectClient", automations: list[dict[str, Any]], reset: bool) -> None:
    from prefect.events.schemas.automations import AutomationCore

    for declared in automations:
        automation = AutomationCore.model_validate(declared)
        found = client.read_automations_by_name(automation.name)
        if found:
            # An automation that an operator has switched off stays off.
            enabled = automation.enabled if reset else found[0].enabled
            client.update_automation(found[0].id, automation.model_copy(update={"enabled": enabled}))
        else:
            client.create_automation(automation)


def _is_here(api_url: str) -> bool:
    host = urlsplit(api_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
