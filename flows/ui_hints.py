"""Add to an error's hint where the Prefect UI has what its commands do: people read it there, without a terminal."""

import inspect
import re
from collections.abc import Collection, Sequence
from importlib import import_module

from flows.databases import loaded_sources
from flows.deployments import read_declarations
from flows.engine import launching_deployment
from warehouse.errors import WarehouseError
from warehouse.settings import Settings

# The deployment that does what a command does, by the command's words after `dwh`. `dwh run SOURCE` is ingest-SOURCE.
_DEPLOYMENTS = {
    "run daily": "daily-warehouse",
    "run weblogs": "ingest-weblogs",
    "run marts": "refresh-marts",
    "run features": "build-features",
    "run reclassify": "reclassify-weblogs",
    "run retention": "remove-old-weblogs",
    "reconcile": "reconcile",
    "geoip update": "geoip-update",
    "backfill": "backfill",
    "rebuild": "rebuild",
    "archive": "maintain-archive",
    "export": "export-tables",
    "report": "publish-report",
}
# Matches a command in backquotes, or an option alone, as in "run it again with --confirm-deletes".
_NAMED = re.compile(r"`dwh\s([^`]+)`|(?<![\w`-])`?(--[a-z][a-z-]+)")


def add_ui_steps(hint: str) -> str:
    """Add to a hint the deployments, and the switches in their forms, that do what its commands do.

    Hints of runs that no deployment started stay unchanged: those are read at a terminal.
    """
    own = launching_deployment.get()
    if own is None or "In Prefect:" in hint:
        return hint
    try:
        declared = read_declarations(loaded_sources(Settings.load())).deployments
    except WarehouseError:
        # The declarations cannot be read, which is not the error that this hint is about.
        return hint
    entrypoints = {one["name"]: one["entrypoint"] for one in declared}
    steps: dict[str, None] = {}
    last = own
    for command, option in _NAMED.findall(hint):
        words = command.split() or [option]
        name = _deployment_of(words) if command else last
        if name not in entrypoints:
            continue
        last = name
        switches = [word[2:].replace("-", "_") for word in words if word.startswith("--")]
        if not set(switches) <= set(_switches(entrypoints[name])):
            continue
        named = " and ".join(f"`{switch}`" for switch in switches)
        steps[f"deployment {name}, Run{f', Custom run, switch on {named}' if named else ''}"] = None
    return f"{hint} In Prefect: {'; '.join(steps)}." if steps else hint


def _deployment_of(words: Sequence[str]) -> str:
    plain = [word for word in words if not word.startswith("--")]
    for length in (2, 1):
        if found := _DEPLOYMENTS.get(" ".join(plain[:length])):
            return found
    return f"ingest-{plain[1]}" if plain[0] == "run" and len(plain) == 2 else ""


def _switches(entrypoint: str) -> Collection[str]:
    """Return the names of a flow's boolean parameters, which are switches in its form."""
    module, _, name = entrypoint.rpartition(".")
    function = getattr(import_module(module), name)
    parameters = inspect.signature(getattr(function, "fn", function)).parameters.values()
    return [parameter.name for parameter in parameters if isinstance(parameter.default, bool)]
