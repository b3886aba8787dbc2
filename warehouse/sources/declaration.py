"""Read and validate a source's declaration: `source.toml` and its conform SQL."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from warehouse.db.identifiers import quoted
from warehouse.errors import DeclarationError
from warehouse.model.star import DIMENSIONS, TARGETS, Fact
from warehouse.model.tables import delivered_columns
from warehouse.settings import feed_section
from warehouse.sources.entity_key import check_key_of_record, read_key
from warehouse.sources.feed import RECORDED_AT, ColumnType, FeedSpec, FieldPolicy, for_every_change
from warehouse.sources.feed_tables import check_feed_tables
from warehouse.sources.joins import CHANGED, Join, check_joins, parse_join
from warehouse.sources.lookups import LookupSpec, parse_lookups
from warehouse.sources.source import STAGING_SUFFIXES, Entity, SchemaPolicy, Source, Table, UndecodablePolicy

# The reason for relaxing a rule has at least this many words, so that others can judge it later.
REASON_WORDS = 3
STRICT = ConfigDict(extra="forbid", frozen=True)

Name = Annotated[str, Field(min_length=1)]
Columns = tuple[Name, ...]
# A table may be joined in several ways: one condition, or a list of them.
Conditions = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


def _each_once(columns: Columns) -> Columns:
    for column in columns:
        if columns.count(column) > 1:
            raise PydanticCustomError("column_twice", "twice", {"column": column})
    return columns


def _a_reason(text: str) -> str:
    if len(text.split()) < REASON_WORDS:
        raise PydanticCustomError("no_reason", "no reason")
    return text


class _TableSpec(BaseModel):
    """[tables.NAME]"""

    model_config = STRICT

    key: Annotated[Columns, Field(min_length=1), AfterValidator(_each_once)]
    cursor: Name | None = None
    schema_: Name | None = Field(None, alias="schema")
    name: Name | None = None
    undecodable: UndecodablePolicy | None = None
    columns: dict[Name, ColumnType] = {}
    items: Name | None = None


class _EntitySpec(BaseModel):
    """[entities.NAME]"""

    model_config = STRICT

    from_: Name = Field(alias="from")
    key: dict[str, Annotated[Columns, Field(min_length=1), AfterValidator(_each_once)]] = {}
    parents: dict[str, Columns] = {}
    joins: dict[str, Conditions] = {}
    follows: dict[str, Conditions] = {}
    stale: dict[str, Name] = {}
    unmapped_columns: Columns = ()
    relaxed_rules: dict[Name, Annotated[str, AfterValidator(_a_reason)]] = {}
    lookups: dict[str, LookupSpec] = {}
    precedence: Annotated[Columns, AfterValidator(_each_once)] = ()


class _Spec(BaseModel):
    """A whole source.toml."""

    model_config = STRICT

    description: str = ""
    # Addresses for alerts about the source (runs/alerts/owners.py).
    owner: str | tuple[str, ...] = ()
    schema_: Name = Field("public", alias="schema")
    on_schema_change: Annotated[SchemaPolicy, BeforeValidator(for_every_change)] = SchemaPolicy()
    undecodable: UndecodablePolicy = "refuse"
    feed: FeedSpec | None = None
    tables: Annotated[dict[str, _TableSpec], Field(min_length=1)]
    entities: dict[str, _EntitySpec] = {}


def read_declaration(folder: Path) -> Source:
    """Read the source that is declared in `folder`; the folder's name is the source's name.

    Raises:
        DeclarationError: the declaration is wrong; says where, why, and what to write instead.
    """
    path = folder / "source.toml"
    try:
        spec = _Spec.model_validate(tomllib.loads(_read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path} is not TOML: {error}.", hint="Correct that line.") from None
    except ValidationError as error:
        raise _explain(error, path) from None
    for name in spec.tables:
        if "." in name:
            schema, _, relation = name.partition(".")
            raise DeclarationError(
                f'{path} [tables."{name}"]: a table is declared under a name without a dot.',
                hint=f'[tables.{schema}_{relation}] with schema = "{schema}" and name = "{relation}" declares table '
                f"{relation} of schema {schema}, as {schema}_{relation} in joins and mirrors.",
            )
    tables = {
        name: Table(
            folder.name,
            name,
            table.schema_ or spec.schema_,
            table.key,
            # The cursor of a feed's records is the time that their file was written.
            RECORDED_AT if spec.feed and not table.items else table.cursor,
            spec.on_schema_change,
            table.name,
            table.undecodable or spec.undecodable,
            table.columns,
            table.items,
        )
        for name, table in spec.tables.items()
    }
    feed = spec.feed.feed() if spec.feed else None
    if feed is not None:
        of_databases = {
            "": spec.model_fields_set & {"schema_", "on_schema_change", "undecodable"},
            **{
                f"tables.{name}": table.model_fields_set & {"cursor", "schema_", "name", "undecodable"}
                for name, table in spec.tables.items()
            },
        }
        for header, names in of_databases.items():
            if names:
                name = min(names).rstrip("_")
                where = f"{path} [{header}]" if header else str(path)
                hint = "Write it under [feed]." if name == "on_schema_change" else "Remove it."
                raise DeclarationError(f"{where}: '{name}' is for databases, and this is a feed.", hint=hint)
    check_feed_tables(tables, feed, path)
    entities = {name: _entity(folder, name, entity, tables) for name, entity in spec.entities.items()}
    _check_names(tables.values(), entities, path)
    member_keys = {
        natural: columns
        for target in DIMENSIONS
        if target.entity in entities
        for natural, columns in entities[target.entity].key.items()
        if len(columns) > 1
    }
    entities = {name: replace(entity, member_keys=member_keys) for name, entity in entities.items()}
    return Source(folder.name, spec.description, tuple(tables.values()), entities, feed, folder)


def is_feed(folder: Path) -> bool:
    """Return whether `folder` declares a feed; false if its declaration cannot be read."""
    return feed_section(folder / "source.toml") is not None


def landing_of(folder: Path) -> str | None:
    """Return the landing folder, below the lake, of the feed declared in `folder`; None if it declares none."""
    section = feed_section(folder / "source.toml")
    landing = section.get("landing") if isinstance(section, dict) else None
    return landing if isinstance(landing, str) else None


def _read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without the byte order mark that editors on Windows write."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DeclarationError(
            f"{path} is not UTF-8 text: byte {error.object[error.start]:#x} in line {line}.",
            hint="Save it as UTF-8.",
        ) from None


def _entity(folder: Path, name: str, spec: _EntitySpec, tables: Mapping[str, Table]) -> Entity:
    where = f"{folder / 'source.toml'} [entities.{name}]"
    targets = {target.entity: target for target in TARGETS}
    if name not in targets:
        raise DeclarationError(
            f"{where}: the warehouse has no entity '{name}'.", hint=f"It has: {', '.join(sorted(targets))}."
        )
    stale_tables = (one for one in spec.stale if "." not in one)
    for mentioned in (spec.from_, *spec.parents, *spec.joins, *stale_tables):
        if mentioned not in tables:
            raise DeclarationError(
                f"{where} names table '{mentioned}', which is not declared.",
                hint=f"Add [tables.{mentioned}].",
            )
    table = tables[spec.from_]
    key = read_key(targets[name], spec.key, table, where)
    if record := next((one for one in tables.values() if one.columns and not one.items), None):
        check_key_of_record(key, record, where)
    joins = [_join_parent(tables[parent], columns, table, where) for parent, columns in spec.parents.items()]
    joins += [
        parse_join(joined, condition, tables, where)
        for joined, conditions in spec.joins.items()
        for condition in conditions
    ]
    star = {target.table for target in TARGETS if target.entity != name}
    follows = [
        parse_join(followed, condition, {**tables, **dict.fromkeys(star)}, where)
        for followed, conditions in spec.follows.items()
        for condition in conditions
    ]
    if unknown := [followed for followed in spec.follows if followed not in star]:
        raise DeclarationError(
            f"{where} follows '{unknown[0]}', which is no other table of the star.",
            hint=f"It may follow: {', '.join(sorted(star))}.",
        )
    check_joins([*joins, *follows], table.name, where)
    if spec.precedence and not isinstance(targets[name], Fact):
        raise DeclarationError(
            f"{where} declares a precedence, and {name} is no fact.",
            hint="Only facts have events that several sources may have: remove it.",
        )
    if spec.precedence and (folder.name not in spec.precedence or len(spec.precedence) == 1):
        raise DeclarationError(
            f"{where}: precedence must name '{folder.name}' and another source.",
            hint=f'precedence = ["…", "{folder.name}"]: first the source whose rows count.',
        )
    columns = {column.name for column in delivered_columns(targets[name])} - {*key}
    if unknown := [column for column in spec.unmapped_columns if column not in columns]:
        raise DeclarationError(
            f"{where}: unmapped_columns names '{unknown[0]}', which is no column of {name} beside its key.",
            hint=f"It has: {', '.join(sorted(columns))}.",
        )
    sql = folder / "conform" / f"{name}.sql"
    if not sql.is_file():
        raise DeclarationError(f"{where} has no SQL.", hint=f"Write {sql}.")
    return Entity(
        folder.name,
        name,
        table,
        key,
        tables,
        tuple(joins),
        tuple(follows),
        spec.stale,
        frozenset(spec.unmapped_columns),
        spec.relaxed_rules,
        _read_text(sql),
        parse_lookups(spec.lookups, targets[name], {one.entity: one for one in DIMENSIONS}, where),
        spec.precedence,
    )


def _join_parent(parent: Table, columns: Columns, table: Table, where: str) -> Join:
    """Build the join of `table` to a parent: `columns` of the table refer to the parent's key."""
    if len(columns) != len(parent.key):
        raise DeclarationError(
            f"{where}: parent {parent.name} has the key ({', '.join(parent.key)}).",
            hint=f"Name as many columns of {table.name}, in the same order.",
        )
    alias = CHANGED if parent == table else parent.name
    terms = (
        f"{quoted(alias)}.{quoted(key)} = {quoted(table.name)}.{quoted(column)}"
        for key, column in zip(parent.key, columns, strict=True)
    )
    return Join(parent.name, (table.name,), " and ".join(terms))


def _check_names(tables: Iterable[Table], entities: Mapping[str, Entity], path: Path) -> None:
    """Check that no table is declared twice, and no staging tables share a name, as those of `x` and `x_delta` do."""
    places: dict[tuple[str, str], str] = {}
    for table in tables:
        if (other := places.setdefault(table.at_source, table.name)) != table.name:
            raise DeclarationError(
                f"{path}: [tables.{other}] and [tables.{table.name}] are both {table}.",
                hint='Declare it once, or name the schema of each: schema = "…".',
            )
    owners: dict[str, str] = {}
    names = [(table.mirror + suffix, table.name) for table in tables for suffix in STAGING_SUFFIXES]
    names += [
        (f"{entity.source}_{entity.name}_changed_keys", f"entity {entity.name}")
        for entity in entities.values()
    ]
    for name, owner in names:
        if name in owners:
            raise DeclarationError(
                f"{path}: {owners[name]} and {owner} would share staging.{name}.",
                hint='Declare a table under another name: [tables.ANOTHER] with name = "…", its name at the source.',
            )
        owners[name] = owner


HINTS = {
    "tables": 'Add [tables.NAME] with key = ["…"].',
    "key": 'Add key = ["…"]: the columns that make a row unique.',
    "from": "Name the table whose key is the entity's key.",
    "on_schema_change": "Use one of evolve, ignore, stop; or [on_schema_change] with new_column, dropped_column, "
    "changed_type.",
    "feed.on_schema_change": "Use one of rescue, evolve, stop; or [feed.on_schema_change] with new_column, "
    "dropped_column, changed_type.",
    "landing": 'Add landing = "landing/…": the folder below DWH_LAKE in which files arrive.',
    "bad_records": 'Add bad_records = "bad/…": the folder below DWH_LAKE that gets what cannot be read.',
    "format": 'Add format = "json", or "table" for CSV and workbooks.',
    "record": 'Add record = "…": the table whose rows are the records of the files.',
    "source": 'Add source = "…": the source that loads the members, or a list of sources by precedence.',
}
# What lists that are not lists of columns contain, for error messages.
LISTS = {
    "ignore": "names of files",
    "date_formats": "formats",
    "precedence": "sources",
    "header_names": "names",
    "source": "sources",
}


def _explain(error: ValidationError, path: Path) -> DeclarationError:
    """Turn the first validation error into a DeclarationError in the terms of source.toml."""
    first = error.errors(include_url=False)[0]
    place, kind = [str(part) for part in first["loc"] if not isinstance(part, int)], first["type"]
    if place[0] == "owner":
        # `owner` may be a text or a list; pydantic appends the type that it tried to the location.
        place = place[:1]
    if place[-1] == "[key]":
        place = place[:-1]
    names_table = place[:1] in (["tables"], ["entities"]) and len(place) > 1
    header = place[:2] if names_table else place[:1] if len(place) > 1 else []
    if place[:2] == ["feed", "on_schema_change"] and len(place) > 2:
        header = place[:2]
    name = place[-1]
    is_list = kind == "tuple_type" or isinstance(first["loc"][-1], int)
    where = f"{path} [{'.'.join(header)}]" if header else str(path)
    match kind:
        case _ if place == ["owner"]:
            return DeclarationError(
                f"{where}: 'owner' must be an address, or a list of some.", hint='owner = "…"'
            )
        case _ if place[2:3] == ["key"] and place[0] == "entities" and kind != "column_twice":
            return DeclarationError(
                f"{where}: 'key' must say which columns make each column of the natural key.",
                hint='key = { customer_id = ["tenant_id", "id"] }',
            )
        case "no_lake_path":
            return DeclarationError(
                f"{where}: {name} cannot be '{first['input']}'.",
                hint="Name a folder below DWH_LAKE, as landing/orders: no URL, no path from the root, and no '..'.",
            )
        case "no_date_format":
            return DeclarationError(
                f"{where}: '{first['input']}' in {name} is no format of dates.",
                hint="Write it as Python's strptime does, with a year: %d.%m.%Y, say.",
            )
        case "no_time_zone":
            return DeclarationError(f"{where}: {first['ctx']['what']}", hint=first["ctx"]["hint"])
        case "extra_forbidden" | "unexpected_keyword_argument":
            return DeclarationError(
                f"{where}: there is nothing called {name}.", hint=f"Use: {', '.join(_known(place))}."
            )
        case "missing":
            return DeclarationError(
                f"{where}: '{name}' is missing.", hint=HINTS.get(name, f'Add {name} = "…".')
            )
        case "too_short" if name in HINTS:
            return DeclarationError(f"{where}: '{name}' is empty.", hint=HINTS[name])
        case "literal_error":
            return DeclarationError(
                f"{where}: {name} cannot be '{first['input']}'.", hint=f"Use {first['ctx']['expected']}."
            )
        case "column_twice":
            return DeclarationError(
                f"{where}: '{name}' names column '{first['ctx']['column']}' twice.",
                hint="Name each column once.",
            )
        case _ if place[2:3] in (["joins"], ["follows"], ["stale"]) and len(place) > 3:
            expected = (
                "the reason why it may be" if place[2] == "stale" else "an SQL condition, or a list of some"
            )
            return DeclarationError(f"{where} {place[2]}: '{name}' must be {expected}.", hint=f'{name} = "…"')
        case "no_reason" | "string_type" if "relaxed_rules" in place:
            return DeclarationError(
                f"{where}: the reason why '{name}' is relaxed is not said.",
                hint=f'"{name}" = "…": in {REASON_WORDS} words or more.',
            )
        case "tuple_type" | "string_type" | "string_too_short" if is_list:
            members = LISTS.get(place[1] if place[:2] == ["feed", "header_names"] else name, "column names")
            return DeclarationError(f"{where}: '{name}' must be a list of {members}.", hint=f'{name} = ["…"]')
        case "string_type" | "string_too_short":
            expected = "text" if name == "description" else "a name"
            return DeclarationError(f"{where}: '{name}' must be {expected}.", hint=f'{name} = "…"')
        case "model_type" | "dict_type" | "dataclass_type" | "model_attributes_type":
            hint = f"Write [{'.'.join(place)}] and below it NAME = value."
            return DeclarationError(
                f"{where}: '{name}' must be a table.", hint=HINTS.get(".".join(place), HINTS.get(name, hint))
            )
        case _:
            return DeclarationError(f"{where}: {name} cannot be {first['input']!r}.", hint=f"{first['msg']}.")


def _known(place: list[str]) -> list[str]:
    """Return the names that are allowed in the section of `place`."""
    match place[:-1]:
        case ["on_schema_change"]:
            return sorted(one.name for one in fields(SchemaPolicy))
        case ["feed", "on_schema_change"]:
            return sorted(one.name for one in fields(FieldPolicy))
        case ["feed"]:
            model: type[BaseModel] = FeedSpec
        case ["tables", _]:
            model = _TableSpec
        case ["entities", _, "lookups", _]:
            model = LookupSpec
        case ["entities", _]:
            model = _EntitySpec
        case _:
            model = _Spec
    return sorted(field.alias or name for name, field in model.model_fields.items())
