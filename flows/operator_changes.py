"""What an operator has changed on a Prefect server since the last deployment: it stays as it is.

The server remembers by hash, in variables, what was declared when a thing was deployed. A property that it now has
otherwise, and that is not what is declared today either, somebody has changed there.
"""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PREFIX: Final = "dwh_deployed_"
# Of a deployment that we have paused, as its source is gone: it is resumed when the source is back.
PAUSED_BY_US: Final = "paused_by_us"

Values = Mapping[str, Any]


class OperatorChanges:
    """Decides property by property between what is declared and what the server has; `reset` takes what is declared.

    `kept` names the properties of each thing that an operator has changed.
    """

    def __init__(self, client: "SyncPrefectClient", *, reset: bool = False) -> None:
        self._client, self._reset = client, reset
        # By variable, what the server has; None where it has none.
        self._known: dict[str, dict[str, str] | None] = {}
        self.kept: dict[str, list[str]] = {}

    def merge(self, name: str, declared: Values, current: Values | None) -> dict[str, Any]:
        """Values to deploy as `name`: the declared ones, but the current ones where an operator has changed them."""
        deployed, values, hashes = self.deployed(name), dict(declared), {}
        for key, value in declared.items():
            hashes[key] = _hash(value)
            if current is None or self._reset or _hash(current[key]) in (deployed.get(key), hashes[key]):
                continue
            values[key] = current[key]
            self.kept.setdefault(name, []).append(key)
            # Changed it remains, whatever is declared next.
            hashes[key] = deployed.get(key, "")
        self.remember(name, {**deployed, **hashes})
        return values

    def deployed(self, name: str) -> dict[str, str]:
        """What the server remembers of the last deployment of `name`: a hash by property."""
        return dict(self._read(_variable(name)) or {})

    def remember(self, name: str, hashes: Mapping[str, str]) -> None:
        """Have the server remember what is deployed as `name`."""
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
