"""What an explanation is made of: a tree of titles, each with what is known there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warehouse.errors import SettingsError


@dataclass(frozen=True)
class Node:
    """One thing that was found: its title, facts about it by name, and what it rests on."""

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    children: "Sequence[Node]" = ()


class UnknownRow(SettingsError):
    """What is to be explained is not there, and never was as far as the warehouse knows."""
