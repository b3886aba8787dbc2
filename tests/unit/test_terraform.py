"""Terraform's files against a copy of the provider's schema: neither Terraform nor the provider can be had here."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 reads Terraform's files")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "terraform"
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "terraform_provider.json").read_text())
# Arguments that Terraform itself has for every resource.
META = {"for_each", "count", "depends_on", "lifecycle", "provider"}


def parse(text: str) -> dict[str, Any]:
    found: dict[str, Any] = hcl2.loads(text)
    return found


def blocks(parsed: dict[str, Any], kind: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Labels and attributes of each block of a kind."""
    for block in parsed.get(kind, []):
        labels, body = [], block
        while "__is_block__" not in body:
            ((label, body),) = body.items()
            labels.append(label.strip('"'))
        yield labels, {name: value for name, value in body.items() if not name.startswith("__")}


def faults(place: str, given: Any, schema: dict[str, Any]) -> list[str]:
    """What of the attributes the provider would refuse: unknown or read-only ones, and those that are missing."""
    found = []
    for one in given if isinstance(given, list) else [given]:
        names = {name for name in one if not name.startswith("__")} - META
        known = {*schema.get("required", ()), *schema.get("optional", ())}
        found += [f"{place}.{name} is not known" for name in sorted(names - known)]
        found += [f"{place}.{name} is missing" for name in sorted(set(schema.get("required", ())) - names)]
        for name, inner in schema.get("within", {}).items():
            if name in one:
                found += faults(f"{place}.{name}", one[name], inner)
    return found


def check(text: str) -> list[str]:
    """What is wrong with resources, providers, and references to attributes and variables in a file."""
    parsed, variables = parse(text), parse((FOLDER / "variables.tf").read_text())
    found = []
    declared = {}
    for (kind, name), given in blocks(parsed, "resource"):
        declared[f"{kind}.{name}"] = kind
        schema = SCHEMA["resources"].get(kind)
        found += [f"{kind} is no resource"] if schema is None else faults(f"{kind}.{name}", given, schema)
    for _, given in blocks(parsed, "provider"):
        found += faults("provider", given, SCHEMA["provider"])
    for kind, name, attribute in re.findall(r"\b(prefect_\w+)\.(\w+)(?:\[[^]]+\])?\.(\w+)", text):
        schema = SCHEMA["resources"].get(declared.get(f"{kind}.{name}", ""), {})
        if attribute not in {one for names in schema.values() if isinstance(names, list) for one in names}:
            found.append(f"{kind}.{name}.{attribute} is referred to and not there")
    known = {name for (name,), _ in blocks(variables, "variable")}
    return found + [f"var.{name}" for name in set(re.findall(r"\bvar\.(\w+)", text)) - known]


def test_every_resource_and_attribute_is_known_to_the_provider() -> None:
    text = (FOLDER / "main.tf").read_text()
    assert check(text) == []
    assert {kind for (kind, _), _ in blocks(parse(text), "resource")} == SCHEMA["resources"].keys()


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("  work_pool_name    =", "  work_pool =", "prefect_deployment.this.work_pool is not known"),
        ("  flow_id           =", "  version =", "prefect_deployment.this.flow_id is missing"),
        ("collision_strategy =", "strategy =", "prefect_deployment.this.concurrency_options.strategy is not known"),
        ("      posture ", "      stance ", "prefect_automation.dead_runs.trigger.event.stance is not known"),
        ("actions = [", "steps = [", "prefect_automation.dead_runs.steps is not known"),
        ("_pool.dwh.name", "_pool.dwh.slug", "prefect_work_pool.dwh.slug is referred to and not there"),
        ("var.image", "var.picture", "var.picture"),
        ("  account_id   =", "  account =", "provider.account is not known"),
        ('"prefect_deployment_schedule"', '"prefect_setting"', "prefect_setting is no resource"),
    ],
)  # fmt: skip
def test_what_the_provider_would_refuse_is_found(right: str, wrong: str, fault: str) -> None:
    text = (FOLDER / "main.tf").read_text()
    assert right in text
    assert fault in check(text.replace(right, wrong))


def test_what_is_read_of_the_declarations_is_there() -> None:
    """Paths below `local.resources` and `each.value` exist in the files that `dwh deploy` reads."""
    text = (FOLDER / "main.tf").read_text()
    resources = yaml.safe_load((FOLDER.parent / "resources.yaml").read_text())
    for path in set(re.findall(r"local\.resources\.([\w.\[\]]+)", text)):
        value = resources
        for step in re.findall(r"\w+", path):
            value = value[int(step) if step.isdigit() else step]
    deployments = yaml.safe_load((FOLDER.parent / "prefect.yaml").read_text())["deployments"]
    block = text.partition('resource "prefect_deployment" "this"')[2].partition("\nresource")[0]
    for deployment in deployments:
        for path in set(re.findall(r"each\.value\.([\w.]+)", block)):
            value = deployment
            for step in path.split("."):
                value = value[step]


def test_state_goes_to_a_bucket() -> None:
    (terraform,) = [given for _, given in blocks(parse((FOLDER / "main.tf").read_text()), "terraform")]
    assert terraform["backend"][0].keys() == {'"s3"'}
