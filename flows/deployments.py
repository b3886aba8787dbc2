"""What is deployed: the declarations of deployments/, read without Prefect."""

from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from warehouse.errors import DeclarationError
from warehouse.runs.watchdog import Expectation

FOLDER: Traversable = files("deployments")


@dataclass(frozen=True)
class Declared:
    """Deployments as prefect.yaml has them, and what resources.yaml says they need."""

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


def read_declarations(folder: Traversable = FOLDER) -> Declared:
    """The declarations of `folder`.

    Raises:
        DeclarationError: a file is missing or wrong.
    """
    try:
        deployments = yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"]
        declared = Declared(deployments, yaml.safe_load((folder / "resources.yaml").read_text()))
        # Every schedule has its grace.
        _ = declared.expectations
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        what = str(error) if isinstance(error, OSError | yaml.YAMLError) else f"{error} is missing"
        raise DeclarationError(
            f"The deployments in {folder} cannot be read: {what}.",
            hint="They are part of the package: install dwh again, or compare with its repository.",
        ) from None
    return declared
