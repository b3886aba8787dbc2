"""What a source is: its tables, and the conformed entities that are made of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from warehouse.errors import DeclarationError
from warehouse.model.contracts import Contract, has_contract, read_contract
from warehouse.sources.feed import ColumnType, Feed
from warehouse.sources.joins import Join
from warehouse.sources.lookups import Lookup

# PostgreSQL silently cuts longer names, so that two names with the same beginning would collide.
NAME_BYTES = 63
# Of a captured table's staging tables, after the name of its mirror.
STAGING_SUFFIXES = ("", "_delta", "_deleted")

# What a run does after the source has changed a table's columns: load the change (evolve), leave the mirror as it is
# (ignore), or load nothing until somebody has looked at it (stop).
Policy = Literal["evolve", "ignore", "stop"]
# What is kept of a text that its database cannot deliver as UTF-8: nothing (the run stops), the text with a replacement
# character in place of each such byte, or with the byte escaped as \xNN.
UndecodablePolicy = Literal["refuse", "replace", "escape"]


def fitted(name: str, room: int = NAME_BYTES) -> str:
    """`name`, or where it is longer than `room` bytes, its beginning and a hash of all of it."""
    if len(name.encode()) <= room:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: room - 9].decode(errors="ignore") + "_" + digest


@dataclass(frozen=True)
class SchemaPolicy:
    """What to do when the source changes a table's columns: evolve, ignore or stop."""

    __pydantic_config__ = ConfigDict(extra="forbid", frozen=True)

    new_column: Policy = "evolve"
    dropped_column: Policy = "stop"
    changed_type: Policy = "stop"


@dataclass(frozen=True)
class Table:
    """A source table or view to capture, with its key and, where it has one, its cursor."""

    source: str
    # Its declared name, and that of its mirror.
    name: str
    schema: str
    key: tuple[str, ...]
    cursor: str | None
    on_schema_change: SchemaPolicy = SchemaPolicy()
    # Its name at the source, where that is another one.
    relation: str | None = None
    undecodable: UndecodablePolicy = "refuse"
    # Of a feed: its columns by name, and which list of the record holds its rows, if they are not the records.
    columns: Mapping[str, ColumnType] = field(default_factory=dict, hash=False)
    items: str | None = None

    @property
    def at_source(self) -> tuple[str, str]:
        """Its schema and name at the source."""
        return self.schema, self.relation or self.name

    @property
    def mirror(self) -> str:
        """Name of the mirror in schema raw, and stem of its staging tables: 55 bytes at most."""
        return fitted(f"{self.source}_{self.name}", NAME_BYTES - len("_deleted"))

    @property
    def checked(self) -> str:
        """Of a feed's records, the staging table that their contract checks."""
        return f"{self.mirror}_checked"

    def __str__(self) -> str:
        return ".".join(self.at_source)


@dataclass(frozen=True)
class Entity:
    """A conformed entity: the table whose key is its key, and how changes of other tables lead to its rows."""

    source: str
    name: str
    table: Table
    # Every table of the source, by its declared name.
    tables: Mapping[str, Table]
    joins: tuple[Join, ...]
    # Tables of the star that the SQL reads: how a row of them that any run has changed leads to the entity's rows.
    follows: tuple[Join, ...]
    # What the SQL may read though its changes are not followed: a table or function → the reason.
    stale: Mapping[str, str]
    # Columns for which this source has no data: the contract's rules about them do not apply.
    unmapped_columns: frozenset[str]
    # Rules of the contract that this source need not keep, with the reason.
    relaxed_rules: Mapping[str, str]
    sql: str
    # Dimensions whose members are another source's.
    lookups: tuple[Lookup, ...] = ()
    # Sources that may have the same events, first the one whose rows count; what is the same event, its columns say.
    precedence: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[Table, ...]:
        """The tables that its SQL may read: a load refuses SQL that reads others."""
        names = (self.table.name, *(join.table for join in self.joins), *self.stale)
        return tuple(self.tables[name] for name in dict.fromkeys(names) if name in self.tables)

    def contract(self) -> Contract:
        """Read the contract as it applies to this source.

        Raises:
            DeclarationError: see `read_contract`.
        """
        return read_contract(self.name, self.unmapped_columns, self.relaxed_rules)


@dataclass(frozen=True)
class Source:
    """A source system: its tables in capture order, its entities by name."""

    name: str
    description: str
    tables: tuple[Table, ...]
    entities: Mapping[str, Entity]
    # Where its rows come from files: how they are read.
    feed: Feed | None = None
    folder: Path | None = None

    @property
    def record(self) -> Table:
        """Of a feed, the table whose rows are the records of its files."""
        assert self.feed is not None
        return next(table for table in self.tables if table.name == self.feed.record)

    @property
    def follows_star(self) -> bool:
        """Whether rows of it are made of what other sources have loaded: those should be loaded before it."""
        return any(entity.follows for entity in self.entities.values())

    def record_contract(self) -> Contract | None:
        """Of a feed, the contract of its records as they came, if it declares one.

        Raises:
            DeclarationError: see `read_contract`.
        """
        if self.feed is None or self.feed.contract is None:
            return None
        own = self.folder / f"{self.feed.contract}.yml" if self.folder else None
        folder = own.parent if own is not None and own.is_file() else None
        if own is not None and folder is None and not has_contract(self.feed.contract):
            raise DeclarationError(
                f"There is no data contract for the records of feed '{self.name}': {own} is missing.",
                hint="Write it, or remove contract from [feed] of its source.toml.",
            )
        return read_contract(self.feed.contract, folder=folder, batch=self.record.checked)
