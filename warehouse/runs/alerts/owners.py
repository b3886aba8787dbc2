"""Find the recipients of a mail: the owners that a source, a contract or a mart declares."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from warehouse.errors import WarehouseError
from warehouse.sources.registry import find_source

MARTS: Traversable = files("warehouse.model.marts")
CONTRACTS: Traversable = files("checks")


def find_owners(
    sources: Path | None,
    *,
    flow: str = "",
    contracts: Sequence[str] = (),
    concerns: str = "",
) -> tuple[str, ...]:
    """Return the owners' addresses for a mail about `flow`, about `contracts` of entities, or `concerns` ('mart NAME').

    Owners are declared as `owner = "ana@example.com"` in source.toml (several in a list), `owner: …` in
    checks/<entity>.yml, and `owner` in model/marts/marts.toml. Owners that are not mail addresses are ignored; if the
    result is empty, the mail goes to DWH_ALERT_TO.
    """
    addresses: list[str] = []
    kind, _, source = flow.partition("-")
    if kind in ("ingest", "live"):
        addresses += _of_source(source, sources)
    for entity in contracts:
        path = CONTRACTS / f"{entity}.yml"
        if path.is_file():
            addresses += _addresses(_mapping(yaml.safe_load(path.read_text())).get("owner"))
    kind, _, name = concerns.partition(" ")
    if kind == "mart":
        declared = tomllib.loads((MARTS / "marts.toml").read_text())["mart"]
        addresses += _addresses(declared.get(name, {}).get("owner"))
    return tuple(dict.fromkeys(addresses))


def _of_source(name: str, folder: Path | None) -> list[str]:
    try:
        declared = tomllib.loads((find_source(name, folder) / "source.toml").read_text("utf-8-sig"))
    except (WarehouseError, OSError, ValueError):
        # The run reports the broken declaration. It must not prevent the mail.
        return []
    return _addresses(declared.get("owner"))


def _addresses(value: object) -> list[str]:
    texts = value if isinstance(value, list) else [value] if value else []
    return [address.strip() for text in texts for address in str(text).split(",") if "@" in address]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
