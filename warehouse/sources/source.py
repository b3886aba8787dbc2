"""A source: its tables, and the conformed entities that are made from them."""

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

# PostgreSQL truncates longer names silently, so two names with the same beginning would collide.
NAME_BYTES = 63
# Suffixes of a table's staging tables after its mirror's name.
STAGING_SUFFIXES = ("", "_delta", "_deleted")

# What a run does if the source has changed a table's columns: change the mirror, too (evolve), leave it as it is
# (ignore), or load nothing until somebody has looked at it (stop).
Policy = Literal["evolve", "ignore", "stop"]
# What happens to a text that its database cannot deliver as UTF-8: stop the run (refuse), or load it with each such
# byte replaced by the replacement character (replace) or by \xNN (escape).
UndecodablePolicy = Literal["refuse", "replace", "escape"]


def fitted(name: str, room: int = NAME_BYTES) -> str:
    """Return `name`, shortened to `room` bytes if it is longer: its beginning and a hash of the whole name."""
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
    # Its declared name, which its mirror is named after.
    name: str
    schema: str
    key: tuple[str, ...]
    cursor: str | None
    on_schema_change: SchemaPolicy = SchemaPolicy()
    # Its name at the source, if that differs.
    relation: str | None = None
    undecodable: UndecodablePolicy = "refuse"
    # For feeds: types by column, and the list in the records whose items are its rows; None for the records themselves.
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
        """Name of the staging view that the contract of a feed's records checks."""
        return f"{self.mirror}_checked"

    def __str__(self) -> str:
        return ".".join(self.at_source)


@dataclass(frozen=True)
class Entity:
    """A conformed entity: the table that has its key, its conform SQL, and joins from other tables to its rows."""

    source: str
    name: str
    table: Table
    # Columns of that table's key by the column of the natural key that they are, alone or as a composite key.
    key: Mapping[str, tuple[str, ...]]
    # All tables of the source, by declared name.
    tables: Mapping[str, Table]
    joins: tuple[Join, ...]
    # Joins of star tables that the SQL reads, by which rows that other runs have changed lead to the entity's rows.
    follows: tuple[Join, ...]
    # Tables and functions that the SQL may read although their changes are not followed, with the reason.
    stale: Mapping[str, str]
    # Columns for which this source has no data; the contract's rules about them do not apply.
    unmapped_columns: frozenset[str]
    # Rules of the contract that this source's rows may break, with the reason.
    relaxed_rules: Mapping[str, str]
    sql: str
    # Dimensions whose members another source has loaded.
    lookups: tuple[Lookup, ...] = ()
    # Sources that may have the same events, in order of precedence; the record's key identifies an event.
    precedence: tuple[str, ...] = ()
    # Composite keys of the source's dimensions: their columns by natural key column, as customer_id.
    member_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def has_composite_key(self) -> bool:
        """Whether a column of its natural key consists of several of the table's."""
        return any(len(columns) > 1 for columns in self.key.values())

    @property
    def reads(self) -> tuple[Table, ...]:
        """The tables that its SQL may read; a load refuses SQL that reads others."""
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
    # How its files are read; None for a database.
    feed: Feed | None = None
    folder: Path | None = None

    @property
    def record(self) -> Table:
        """The table of a feed whose rows are the records of its files."""
        assert self.feed is not None
        return next(table for table in self.tables if table.name == self.feed.record)

    @property
    def follows_star(self) -> bool:
        """Whether its SQL reads star tables that other sources load, which should therefore be loaded first."""
        return any(entity.follows for entity in self.entities.values())

    def record_contract(self) -> Contract | None:
        """Read the contract of a feed's records before they are conformed, if it declares one.

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
