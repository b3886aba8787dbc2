"""The process of `dwh live` that belongs to a home folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from stack.files import exclusive
from stack.processes import Service


def live(home: Path) -> Service:
    """Return the `dwh live` process of a home folder, running or not."""
    return Service(home.resolve(), "live")


def launch_live(home: Path, command: Sequence[str]) -> Service:
    """Start `command`, which runs `dwh live`, unless the process of this home folder is running."""
    service = live(home)
    service.home.mkdir(parents=True, exist_ok=True)
    with exclusive(service.home / "live.lock"):
        if service.find() is None:
            service.start(list(command), {**os.environ, "DWH_HOME": str(service.home)})
    return service
