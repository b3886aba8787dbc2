"""Propose a source's declaration from the tables of its database: source.toml, and stubs of conform SQL."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from warehouse.db.identifiers import to_paste
from warehouse.db.type_names import without_modifier
from warehouse.errors import SettingsError, counted
from warehouse.model.declaration import Dimension, Fact, Target
from warehouse.model.star import TARGETS
from warehouse.model.tables import delivered_columns
from warehouse.sources.entity_key import divide_key, key_line
from warehouse.sources.joins import CHANGED
from warehouse.sources.live_tables import TIMESTAMPS, LiveTable
from warehouse.sources.source import STAGING_SUFFIXES

# Usual names of tables in other shops, as patterns by entity.
USUAL_NAMES = {
    "company": r"compan(y|ies)|sellers?|suppliers?|vendors?|merchants?",
    "customer": r"customers?|clients?|buyers?|users?|res_partner",
    "product": r"products?|items?|tracks?|articles?|product_(product|variant)s?",
    "promotion": r"promotions?|coupons?|vouchers?|discounts?",
    "payment_method": r"payment_?(methods?|types?)",
    "distribution_center": r"distribution_?cent(er|re)s?|(stock_)?warehouses?|stores?",
    "order_item": r"(sales?_?)?(order|invoice|sale|purchase)_?(items?|lines?|details?)|line_?items?",
    "inventory": r"inventor(y|ies)|stocks?|(stock|inventory)_?levels?|stock_quants?",
}
_FAMILIES = {
    "smallint": "number", "integer": "number", "bigint": "number", "numeric": "number", "real": "number",
    "double precision": "number", "date": "date", "boolean": "boolean",
    **dict.fromkeys((*TIMESTAMPS, "timestamptz"), "time"),
}  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """Files of a declaration by their path in the source's folder, and notes about what to check by hand."""

    files: Mapping[str, str]
    notes: tuple[str, ...]


def propose(source: str, tables: Sequence[LiveTable], chosen: Mapping[str, str] | None = None) -> Proposal:
    """Propose a declaration of `tables`; `chosen` has the tables of entities, those of other entities are guessed.

    Raises:
        SettingsError: there are no tables, or `chosen` names an entity or a table that does not exist.
    """
    if not tables:
        raise SettingsError(
            f"The database of '{source}' has no tables or views that its user may see.",
            hint=f"Check DWH_{source.upper()}_URL.",
        )
    named = _name_tables(tables)
    entities = _choose(named, chosen or {})
    schemas = [one.schema for one in tables]
    schema = max(schemas, key=schemas.count)
    keys = {
        name: _table_key(named[name], _entity_key(named, target, name)) for target, name in entities.items()
    }
    sections = [_table_section(name, table, schema, keys.get(name)) for name, table in named.items()]
    files = {}
    for target, name in entities.items():
        stub = _Stub(source, target, name, named, {name: one.entity for one, name in entities.items()})
        sections.append(stub.section())
        files[f"conform/{target.entity}.sql"] = stub.sql()
    header = f'description = "What {source} is, in a sentence."'
    if schema != "public":
        header += f"\nschema = {_text(schema)}"
    notes = [note for name, one in named.items() if (note := _note_on_key(name, one, is_entity=name in keys))]
    notes += [
        f"{name} inherits from {', '.join(one.inherits)}: its rows are read as rows of that table, too. Declare it "
        "only for columns of its own."
        for name, one in named.items()
        if one.inherits
    ]
    if untaken := [one.entity for one in TARGETS if one not in entities]:
        notes.append(
            f"No table was taken for {', '.join(untaken)}: where there is one, move the folder away and name it, as "
            f"--entity {untaken[0]}=TABLE."
        )
    return Proposal({"source.toml": "\n\n".join([header, *sections]) + "\n", **files}, tuple(notes))


def _note_on_key(name: str, table: LiveTable, *, is_entity: bool) -> str | None:
    if is_entity and not table.key:
        return f"{name} is a {table.kind}: make sure that {', '.join(table.guessed_key)} identifies a row."
    if not table.is_table and not is_entity:
        return (
            f"{name} is a {table.kind}: it is read only if you declare it, with columns that identify a row."
        )
    return None if table.key else f"{name} has no key: name columns that identify a row."


def _name_tables(tables: Sequence[LiveTable]) -> dict[str, LiveTable]:
    """Name the tables for the declaration: by their own name, with the schema as a prefix if the name or that of a
    staging table is not unique, and with a number if that is taken, too. `changed` is not used, since it is the alias
    of the changed row in joins and conform SQL."""
    names = [one.name for one in tables]
    staging = {f"{target.entity}_changed_keys" for target in TARGETS}
    given: dict[tuple[str, str], str] = {}
    # Shorter names first: of users and users_deleted, which conflict in staging, users keeps its name.
    for one in sorted(tables, key=lambda one: (len(one.name), one.schema, one.name)):
        long = f"{one.schema}_{one.name}"
        candidates = [long] if names.count(one.name) > 1 else [one.name, long]
        for name in chain(candidates, (f"{long}_{number}" for number in count(2))):
            declared = name.replace(".", "_")
            own = {declared + suffix for suffix in STAGING_SUFFIXES}
            if declared != CHANGED and staging.isdisjoint(own):
                break
        staging |= own
        given[one.schema, one.name] = declared
    return {given[one.schema, one.name]: one for one in tables}


def _choose(named: Mapping[str, LiveTable], chosen: Mapping[str, str]) -> dict[Target, str]:
    targets = {target.entity: target for target in TARGETS}
    for entity, name in chosen.items():
        if entity not in targets:
            raise SettingsError(
                f"The warehouse has no entity '{entity}'.", hint=f"It has: {', '.join(sorted(targets))}."
            )
        if name not in named:
            raise SettingsError(f"There is no table '{name}'.", hint=f"There are: {', '.join(named)}.")
        if not _entity_key(named, targets[entity], name):
            raise SettingsError(
                f"Table {name} cannot be {entity}: its key is ({', '.join(named[name].key)}), that of {entity} "
                f"({', '.join(targets[entity].natural_key)}).",
                hint="Declare its key by hand: it may have more columns than are needed to identify a row.",
            )
    # Prefer tables to views, then the table that most foreign keys refer to.
    referred = [(schema, name) for one in named.values() for _, schema, name, _ in one.references]
    by_weight = sorted(named, key=lambda name: _weight(named[name], referred))
    entity_tables = {
        entity: name
        for entity, pattern in USUAL_NAMES.items()
        for name in by_weight
        if re.fullmatch(pattern, named[name].name, re.IGNORECASE)
    }
    entity_tables.update(chosen)
    return {
        target: entity_tables[entity]
        for entity, target in targets.items()
        if entity in entity_tables and _entity_key(named, target, entity_tables[entity])
    }


def _weight(table: LiveTable, referred: Sequence[tuple[str, str]]) -> tuple[bool, int, str]:
    return table.is_table, referred.count((table.schema, table.name)), table.name


def _entity_key(named: Mapping[str, LiveTable], target: Target, name: str) -> dict[str, tuple[str, ...]]:
    """Return the table's columns for each column of the entity's natural key; empty if none seem to fit.

    For order lines with a key of their own, the order's key is put before it.
    """
    table = named[name]
    key = tuple(table.key if table.is_table else table.guessed_key)
    if key and [*target.natural_key] == ["order_id", "line_id"]:
        for order in sorted(_order_columns(table, key), key=lambda columns: not {*columns} <= {*key}):
            if line := tuple(column for column in key if column not in order):
                return dict(zip(target.natural_key, (order, line), strict=True))
    return divide_key(target, key) if key else {}


def _order_columns(table: LiveTable, key: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield columns that seem to be the key of the order of an order line: those of a foreign key, or one by its name
    with what begins the line's key, as a tenant."""
    for columns, _, referred, _ in table.references:
        is_order = re.search("order|invoice|sale|purchase", referred, re.IGNORECASE)
        if is_order and (len(key) == 1 or {*columns} & {*key}):
            yield tuple(sorted(columns, key=lambda column: column not in key))
    for name in table.types:
        if len(key) > 1 and re.fullmatch(
            "(order|invoice|sale|purchase)_?(id|no|number)", name, re.IGNORECASE
        ):
            yield (*key[: -1 if name not in key else key.index(name)], name)


def _table_key(table: LiveTable, key: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the columns of which the natural key consists, in the order of the table's own key if it has no others."""
    columns = tuple(dict.fromkeys(column for columns in key.values() for column in columns))
    return tuple(table.key) if {*table.key} == {*columns} else columns


def _table_section(name: str, table: LiveTable, schema: str, entity_key: Sequence[str] | None) -> str:
    key = entity_key or (table.key if table.is_table else table.guessed_key)
    size = f"about {counted(table.rows, 'row')}, {table.size}" if table.rows else table.size
    lines = [f"# {size if table.is_table else f'a {table.kind}'}"]
    if table.inherits:
        lines.append(f"# inherits from {_one_line(', '.join(table.inherits))}: its rows are read there, too")
    lines.append(f"[tables.{_key(name)}]")
    if table.schema != schema:
        lines.append(f"schema = {_text(table.schema)}")
    if table.name != name:
        lines.append(f"name = {_text(table.name)}")
    lines.append(f"key = {_list(key)}")
    if table.cursor:
        lines.append(f"cursor = {_text(table.cursor)}")
    if not key or not (table.is_table or entity_key):
        columns = ", ".join(table.types)
        what = "It has no key" if table.is_table else "To read it"
        return "\n".join(
            [f"# {what}: name columns that identify a row, and remove the #", f"# of: {_one_line(columns)}"]
            + [line if line.startswith("#") else f"# {line}" for line in lines]
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Stub:
    """Stub of an entity: its section in source.toml and its conform SQL, guessed from a table."""

    source: str
    target: Target
    name: str
    tables: Mapping[str, LiveTable]
    # Entity by the table that it is made from.
    entities: Mapping[str, str]

    @property
    def table(self) -> LiveTable:
        return self.tables[self.name]

    @property
    def key(self) -> Mapping[str, Sequence[str]]:
        return _entity_key(self.tables, self.target, self.name)

    def section(self) -> str:
        """Write the entity's section of source.toml, with the joins of tables that refer to its table as comments."""
        lines = [f"[entities.{self.target.entity}]", f"from = {_text(self.name)}"]
        if [*self.key.values()] != [(one,) for one in _table_key(self.table, self.key)]:
            lines.append(key_line(self.key))
        if parents := self._used_parents():
            listed = ", ".join(f"{_key(name)} = {_list(columns)}" for name, columns in parents.items())
            lines.append(f"parents = {{ {listed} }}")
        lines += [
            "# What this source has nothing for: then delete it from the SQL, and rules about it do not apply.",
            "# unmapped_columns = []",
        ]
        if children := list(self._children()):
            lines += [
                "# Where the SQL reads these tables, their changes reach it by:",
                f"# [entities.{self.target.entity}.joins]",
                *(f"# {line}" for line in children),
            ]
        return "\n".join(lines)

    def sql(self) -> str:
        """Write the conform SQL: every column of the entity, guessed by its name, or a null of its type."""
        mirror, alias = to_paste(f"{self.source}_{self.name}"), to_paste(self.name)
        guesses = self._guesses()
        columns = [one for one in delivered_columns(self.target) if not one.may_be_omitted]
        lines = []
        for position, column in enumerate(columns):
            value = guesses.get(column.name) or f"null::{column.type}"
            comma = "," if position < len(columns) - 1 else ""
            todo = "" if column.name in guesses else "TODO "
            lines.append(f"    {value} as {column.name}{comma} -- {todo}{column.description}")
        changed_keys = f"staging.{self.source}_{self.target.entity}_changed_keys"
        key = _table_key(self.table, self.key)
        same = " and ".join(f"changed.{to_paste(name)} = {alias}.{to_paste(name)}" for name in key)
        joins = []
        for parent, own in self._used_parents().items():
            its = self.tables[parent].key
            on = " and ".join(
                f"{alias}.{to_paste(one)} = {to_paste(parent, other)}"
                for one, other in zip(own, its, strict=True)
            )
            joins.append(
                f"left join raw.{to_paste(f'{self.source}_{parent}')} as {to_paste(parent)}\n"
                f"    on {on} and not {to_paste(parent)}._is_deleted"
            )
        inputs = ", ".join(
            [
                f"{changed_keys} (keys)",
                *(f"raw.{self.source}_{one}" for one in (self.name, *self._used_parents())),
            ]
        )
        return "\n".join(
            [
                f"-- {self.target.entity}: one row per row of {_one_line(self.name)} that changed.",
                f"-- inputs: {_one_line(inputs)}",
                "select",
                *lines,
                f"from {changed_keys} as changed",
                f"inner join raw.{mirror} as {alias} on {same}",
                *joins,
                f"where not {alias}._is_deleted\n",
            ]
        )

    def _parents(self) -> dict[str, Sequence[str]]:
        """Return the tables whose primary key a foreign key of this table refers to, with the foreign key's columns."""
        places = {(one.schema, one.name): name for name, one in self.tables.items()}
        parents: dict[str, Sequence[str]] = {}
        for columns, schema, name, referred in self.table.references:
            parent, own = places.get((schema, name)), dict(zip(referred, columns, strict=True))
            if parent and parent != self.name and {*own} == {*self.tables[parent].key}:
                parents.setdefault(parent, [own[column] for column in self.tables[parent].key])
        return parents

    def _children(self) -> Iterator[str]:
        for name, other in self.tables.items():
            for columns, schema, referred, its in other.references:
                if (schema, referred) == (self.table.schema, self.table.name) and name != self.name:
                    on = " and ".join(
                        f"{to_paste(name, one)} = {to_paste(self.name, key)}"
                        for one, key in zip(columns, its, strict=True)
                    )
                    yield f"{_key(name)} = {_text(on)}"

    def _guesses(self) -> dict[str, str]:
        """Guess the SQL of columns: keys, references to other entities, columns of the same name."""
        guesses = {natural: self._text_of(self.name, *columns) for natural, columns in self.key.items()}
        for name in (self.name, *self._parents()):
            table = self.tables[name]
            for entity, columns in self._members(name):
                guesses.setdefault(f"{entity}_id", self._text_of(name, *columns))
            for column in delivered_columns(self.target):
                kind = table.types.get(column.name)
                if kind is None or (name != self.name and isinstance(self.target, Dimension)):
                    continue
                if column.type == "text":
                    guesses.setdefault(column.name, self._text_of(name, column.name))
                elif (family := _family(column.type)) == _family(kind) is not None:
                    # No cast of a time: one without a zone would be of UTC, while the engine takes the company's.
                    cast = "" if family == "time" else f"::{column.type}"
                    guesses.setdefault(column.name, f"{to_paste(name, column.name)}{cast}")
        if self.table.cursor:
            guesses.setdefault("changed_at", f"{to_paste(self.name, self.table.cursor)}")
        for flag, key in (("has_customer", "customer_id"), ("has_product", "product_id")):
            if isinstance(self.target, Fact) and key in guesses:
                guesses.setdefault(flag, f"{guesses[key]} is not null")
        delivered = {column.name for column in delivered_columns(self.target)}
        return {column: value for column, value in guesses.items() if column in delivered}

    def _used_parents(self) -> dict[str, Sequence[str]]:
        used = " ".join(["", *self._guesses().values()])
        return {name: columns for name, columns in self._parents().items() if f"{to_paste(name)}." in used}

    def _members(self, name: str) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield the dimensions that rows of a table refer to, with its columns for the columns of their keys: of a
        foreign key, or by their names."""
        targets = {target.entity: target for target in TARGETS}
        table = self.tables[name]
        for its_name, entity in self.entities.items():
            target, it = targets[entity], self.tables[its_name]
            if not isinstance(target, Dimension) or its_name == name:
                continue
            (key,) = _entity_key(self.tables, target, its_name).values()
            for columns, schema, referred, its in table.references:
                if (schema, referred) == (it.schema, it.name) and {*its} >= {*key}:
                    own = dict(zip(its, columns, strict=True))
                    yield entity, [own[column] for column in key]
            if len(key) > 1 and {*key[:-1], f"{entity}_id"} <= table.types.keys():
                yield entity, [*key[:-1], f"{entity}_id"]

    @staticmethod
    def _text_of(table: str, *columns: str) -> str:
        texts = [f"{to_paste(table, column)}::text" for column in columns]
        return texts[0] if len(texts) == 1 else f"mart.composite_key({', '.join(texts)})"


def _family(kind: str) -> str | None:
    return _FAMILIES.get(without_modifier(kind))


def _one_line(text: str) -> str:
    """Join lines for use in a comment, since names may have line breaks."""
    return " ".join(text.split())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, names))}]"
