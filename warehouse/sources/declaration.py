"""A source system's declaration: `source.toml` beside its conform SQL, read and checked."""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from warehouse.errors import DeclarationError, SettingsError
from warehouse.model.star import TARGETS

SOURCES = Path(__file__).parent
# PostgreSQL cuts longer names without a word, and two that begin alike would meet.
NAME_BYTES = 63
# What a source may do to its tables, and what is then done: its column is captured from then on (evolve), the mirror
# stays as it is (ignore), or nothing is captured until somebody has looked at it (stop).
POLICIES = ("evolve", "ignore", "stop")
# Names of staging tables that belong to no source.
RESERVED = ("conformed", "source", "weblog", "weblogs")


@dataclass(frozen=True)
class SchemaPolicy:
    """What to do when the source changes a table's columns: evolve, ignore or stop."""

    new_column: str = "evolve"
    dropped_column: str = "stop"
    changed_type: str = "stop"


@dataclass(frozen=True)
class Table:
    """A source table to capture: its key, and its cursor where it has one."""

    source: str
    name: str
    schema: str
    key: tuple[str, ...]
    cursor: str | None
    on_schema_change: SchemaPolicy = SchemaPolicy()

    @property
    def mirror(self) -> str:
        """Name of the mirror in schema raw, and stem of its staging tables: 55 bytes at most."""
        return fitted(f"{self.source}_{self.name}", NAME_BYTES - len("_deleted"))

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Entity:
    """A conformed entity: the table whose key is its key, and the parents from which it takes columns."""

    source: str
    name: str
    table: Table
    # Parent table → columns of `table` that hold the parent's key.
    parents: Mapping[Table, tuple[str, ...]]
    # Columns that this source has nothing for: the contract's rules about them do not apply.
    lacks: frozenset[str]
    sql: str


@dataclass(frozen=True)
class Source:
    """A source system: tables in capture order, entities by name."""

    name: str
    description: str
    tables: tuple[Table, ...]
    entities: Mapping[str, Entity]


def read_source(name: str, folder: Path = SOURCES) -> Source:
    """The source declared in `folder/name`.

    Raises:
        SettingsError: there is no such source.
        DeclarationError: the declaration cannot be used; says where and why.
    """
    path = folder / name / "source.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.parent.name for found in folder.glob("*/source.toml")))
        raise SettingsError(
            f"There is no source '{name}'.", hint=f"Set DWH_SOURCE to one of: {known}; or add {path}."
        )
    try:
        return _parse(name, tomllib.loads(path.read_text()), path)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path} is not TOML: {error}.") from None


def fitted(name: str, room: int = NAME_BYTES) -> str:
    """`name`, or where it is longer than `room` bytes, its beginning and a hash of it all."""
    if len(name.encode()) <= room:
        return name
    told = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: room - 9].decode(errors="ignore") + "_" + told


def _parse(name: str, declared: dict[str, Any], path: Path) -> Source:
    if not re.fullmatch(r"[a-z][a-z0-9]*", name) or name in RESERVED:
        # raw.<source>_<table>: with an underscore in it two sources could mean the same mirror.
        raise DeclarationError(
            f"{path}: '{name}' cannot be the name of a source.",
            hint=f"Use small letters and digits, and none of: {', '.join(RESERVED)}.",
        )
    _only(declared, {"description", "schema", "on_schema_change", "tables", "entities"}, "", path)
    policy = _policy(declared, path)
    schema = _text(declared, "schema", "", path) or "public"
    tables: dict[str, Table] = {}
    for table, told in _section(declared, "tables", path).items():
        where = f"[tables.{table}]"
        _only(told, {"key", "cursor", "schema"}, where, path)
        key = _columns(told, "key", where, path)
        if not key:
            raise DeclarationError(
                f"{path} {where} lacks 'key'.", hint='Add key = ["…"]: what makes a row unique.'
            )
        tables[table] = Table(
            name,
            table,
            _text(told, "schema", where, path) or schema,
            key,
            _text(told, "cursor", where, path),
            policy,
        )
    if not tables:
        raise DeclarationError(f"{path} declares no tables.", hint='Add [tables.NAME] with key = ["…"].')
    entities = {
        entity: _entity(name, entity, told, tables, path)
        for entity, told in _section(declared, "entities", path).items()
    }
    _check_names(tables.values(), entities, path)
    return Source(name, _text(declared, "description", "", path) or "", tuple(tables.values()), entities)


def _entity(
    source: str, entity: str, told: dict[str, Any], tables: Mapping[str, Table], path: Path
) -> Entity:
    where = f"[entities.{entity}]"
    targets = {target.entity: target for target in TARGETS}
    if entity not in targets:
        raise DeclarationError(
            f"{path} {where}: the warehouse knows no entity '{entity}'.",
            hint=f"It loads: {', '.join(sorted(targets))}.",
        )
    _only(told, {"from", "parents", "lacks"}, where, path)
    table = _table(tables, _text(told, "from", where, path), where, path)
    natural = targets[entity].natural_key
    if len(table.key) != len(natural):
        raise DeclarationError(
            f"{path} {where}: the key of {table} is ({', '.join(table.key)}), that of {entity} ({', '.join(natural)}).",
            hint="They must have as many columns, in the same order.",
        )
    parents = {}
    for name in _section(told, "parents", path, where):
        parent = _table(tables, name, where, path)
        parents[parent] = _columns(told["parents"], name, f"{where} parents", path)
        if len(parents[parent]) != len(parent.key):
            raise DeclarationError(
                f"{path} {where}: parent {name} has the key ({', '.join(parent.key)}).",
                hint=f"Name as many columns of {table.name}, in the same order.",
            )
    sql = path.parent / "conform" / f"{entity}.sql"
    if not sql.is_file():
        raise DeclarationError(f"{path} {where} has no SQL.", hint=f"Write {sql}.")
    return Entity(
        source, entity, table, parents, frozenset(_columns(told, "lacks", where, path)), sql.read_text()
    )


def _policy(declared: dict[str, Any], path: Path) -> SchemaPolicy:
    """One word for every change, or one for each kind."""
    told = declared.get("on_schema_change", {})
    kinds = [one.name for one in fields(SchemaPolicy)]
    if isinstance(told, str):
        told = dict.fromkeys(kinds, told)
    where = "[on_schema_change]"
    if not isinstance(told, dict):
        raise DeclarationError(
            f"{path}: 'on_schema_change' must be a word, or a table.",
            hint=f"Use one of {', '.join(POLICIES)}; or [on_schema_change] with {', '.join(kinds)}.",
        )
    _only(told, set(kinds), where, path)
    for kind, word in told.items():
        if word not in POLICIES:
            raise DeclarationError(
                f"{path} {where}: {kind} cannot be '{word}'.", hint=f"Use one of: {', '.join(POLICIES)}."
            )
    return SchemaPolicy(**told)


def _check_names(tables: Iterable[Table], entities: Mapping[str, Entity], path: Path) -> None:
    """No two staging tables of a source may have one name, as `x_delta` and the delta of `x` would."""
    owners: dict[str, str] = {}
    names = [(table.mirror + suffix, table.name) for table in tables for suffix in ("", "_delta", "_deleted")]
    names += [
        (f"{entity.source}_{entity.name}_changed_keys", f"entity {entity.name}")
        for entity in entities.values()
    ]
    for name, owner in names:
        if name in owners:
            raise DeclarationError(
                f"{path}: {owners[name]} and {owner} would share staging.{name}.",
                hint="Declare one of them in a source of its own.",
            )
        owners[name] = owner


def _section(told: dict[str, Any], name: str, path: Path, where: str = "") -> dict[str, Any]:
    found = told.get(name, {})
    if not isinstance(found, dict) or (
        not where and not all(isinstance(value, dict) for value in found.values())
    ):
        raise DeclarationError(f"{path} {where or name}: '{name}' must be a table of tables.")
    return found


def _columns(told: dict[str, Any], name: str, where: str, path: Path) -> tuple[str, ...]:
    found = told.get(name, [])
    if not isinstance(found, list) or not all(isinstance(column, str) for column in found):
        raise DeclarationError(
            f"{path} {where}: '{name}' must be a list of column names.", hint=f'{name} = ["…"]'
        )
    return tuple(found)


def _text(told: dict[str, Any], name: str, where: str, path: Path) -> str | None:
    found = told.get(name)
    if found is not None and (not isinstance(found, str) or not found):
        raise DeclarationError(f"{path} {where}: '{name}' must be a name.", hint=f'{name} = "…"')
    return found


def _only(told: dict[str, Any], known: set[str], where: str, path: Path) -> None:
    if unknown := sorted(told.keys() - known):
        raise DeclarationError(
            f"{path} {where}: there is nothing called {', '.join(unknown)}.".replace(" :", ":"),
            hint=f"Known are: {', '.join(sorted(known))}.",
        )


def _table(tables: Mapping[str, Table], name: str | None, where: str, path: Path) -> Table:
    if name is None:
        raise DeclarationError(
            f"{path} {where} lacks 'from'.", hint="Name the table whose key is the entity's key."
        )
    if name not in tables:
        raise DeclarationError(f"{path} {where} names table '{name}', which is not under [tables].")
    return tables[name]
