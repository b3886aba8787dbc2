"""Read the declarations of Prefect deployments, schedules and work pool in deployments/, without importing Prefect."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from warehouse.errors import DeclarationError
from warehouse.runs.watchdog import Expectation

FOLDER: Traversable = files("deployments")
# In the template for deployments of sources: replaced by the name of the source.
PLACEHOLDER = "{source}"
# Zone of the schedules in prefect.yaml that is replaced by the company's.
SHIPPED_ZONE = "America/Sao_Paulo"


@dataclass(frozen=True)
class Declared:
    """Deployments as prefect.yaml declares them, one for each source, and the resources that they need."""

    deployments: list[dict[str, Any]]
    resources: dict[str, Any]

    @property
    def expectations(self) -> list[Expectation]:
        """By when each scheduled flow should have succeeded."""
        return [
            Expectation(
                deployment["name"],
                schedule["cron"],
                schedule["timezone"],
                timedelta(minutes=self.resources["grace_minutes"][deployment["name"]]),
            )
            for deployment in self.deployments
            for schedule in deployment.get("schedules", [])
            if schedule.get("active", True)
        ]


def read_declarations(
    sources: Sequence[str], folder: Traversable = FOLDER, *, time_zone: str | None = None
) -> Declared:
    """Read the declarations of `folder`, with a deployment for each of `sources`.

    Schedules are in `time_zone`, if there is one, except those to which somebody has given a zone of their own.

    Raises:
        DeclarationError: a file is missing or wrong.
    """
    try:
        templates = yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"]
        resources = yaml.safe_load((folder / "resources.yaml").read_text())
        names = {template["name"] for template in templates}
        deployments = [
            deployment
            for template in templates
            for deployment in _expanded(template, sources)
            # A source with an entry of its own, for another schedule, gets no deployment from the template.
            if deployment is template or deployment["name"] not in names
        ]
        grace = {
            name: minutes
            for template, minutes in resources["grace_minutes"].items()
            for name in _expanded(template, sources)
        }
        for schedule in (one for deployment in deployments for one in deployment.get("schedules", [])):
            if time_zone and schedule["timezone"] == SHIPPED_ZONE:
                schedule["timezone"] = time_zone
        declared = Declared(deployments, {**resources, "grace_minutes": grace | resources["grace_minutes"]})
        # Raises KeyError for a schedule without grace_minutes.
        _ = declared.expectations
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        what = str(error) if isinstance(error, OSError | yaml.YAMLError) else f"{error} is missing"
        raise DeclarationError(
            f"The deployments in {folder} cannot be read: {what}.",
            hint="They are part of the package: install dwh again, or compare with its repository.",
        ) from None
    return declared


def _expanded(template: Any, sources: Sequence[str]) -> list[Any]:
    """Return the template filled in for each source, or unchanged if it has no placeholder."""
    text = json.dumps(template)
    if PLACEHOLDER not in text:
        return [template]
    return [json.loads(text.replace(PLACEHOLDER, source)) for source in sources]
