"""Find properties of deployments and work pools that an operator has changed on the Prefect server, to keep them.

Each deployment stores hashes of the declared properties in variables of the server. If a property now differs both from
that hash and from today's declaration, an operator has changed it.
"""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PREFIX: Final = "dwh_deployed_"
# Marks a deployment that we paused since its source is gone: it is resumed when the source is back.
PAUSED_BY_US: Final = "paused_by_us"

Values = Mapping[str, Any]


class OperatorChanges:
    """Chooses for each property between the declared value and that of the server; `reset` takes the declared one.

    `kept` has, by the name of the deployment or pool, the properties that an operator has changed.
    """

    def __init__(self, client: "SyncPrefectClient", *, reset: bool = False) -> None:
        self._client, self._reset = client, reset
        # Cache of the server's variables by name; None for one that does not exist.
        self._known: dict[str, dict[str, str] | None] = {}
        self.kept: dict[str, list[str]] = {}

    def merge(self, name: str, declared: Values, current: Values | None) -> dict[str, Any]:
        """Return the values to deploy as `name`: the declared ones, except those that an operator has changed."""
        deployed, values, hashes = self.deployed(name), dict(declared), {}
        for key, value in declared.items():
            hashes[key] = _hash(value)
            if current is None or self._reset or _hash(current[key]) in (deployed.get(key), hashes[key]):
                continue
            values[key] = current[key]
            self.kept.setdefault(name, []).append(key)
            # Keep the hash of what was deployed before the change: the property still counts as changed next time.
            hashes[key] = deployed.get(key, "")
        self.remember(name, {**deployed, **hashes})
        return values

    def deployed(self, name: str) -> dict[str, str]:
        """Read the hashes, by property, that the last deployment of `name` stored on the server."""
        return dict(self._read(_variable(name)) or {})

    def remember(self, name: str, hashes: Mapping[str, str]) -> None:
        """Store the hashes of what is deployed as `name` on the server."""
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate

        variable, fresh = _variable(name), dict(hashes)
        known = self._read(variable)
        if known is None:
            self._client.create_variable(VariableCreate(name=variable, value=fresh, tags=["dwh"]))
        elif known != fresh:
            self._client.update_variable(VariableUpdate(name=variable, value=fresh))
        self._known[variable] = fresh

    def _read(self, variable: str) -> dict[str, str] | None:
        if variable not in self._known:
            found = self._client.read_variable_by_name(variable)
            value = found.value if found else None
            self._known[variable] = value if isinstance(value, dict) else {} if found else None
        return self._known[variable]


def _variable(name: str) -> str:
    return PREFIX + re.sub(r"[^a-z0-9]+", "_", name.lower())


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()
