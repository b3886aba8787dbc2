"""The tree of an explanation, and the error for a row that does not exist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warehouse.errors import SettingsError


@dataclass(frozen=True)
class Node:
    """A row, run or rule: its title, its values by name, and the nodes that it was made from."""

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    children: "Sequence[Node]" = ()


class UnknownRow(SettingsError):
    """No table of the warehouse has, or is known to have had, the row to be explained."""


def format_key(key: Mapping[str, str]) -> str:
    """Format a key for a title: `order_id 1, line_id 2`."""
    return ", ".join(f"{name} {value}" for name, value in key.items())
