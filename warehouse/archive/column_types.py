"""How the archive stores PostgreSQL's types: as a type of Delta where there is one, else as PostgreSQL's text."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from warehouse.db.type_names import without_modifier

_DELTA = {
    "boolean": "boolean",
    "smallint": "short",
    "integer": "integer",
    "bigint": "long",
    "real": "float",
    "double precision": "double",
    "timestamp with time zone": "timestamp",
    "date": "date",
    "text": "string",
    "character varying": "string",
    "character": "string",
    "bytea": "binary",
}
# So many digits fit into a bigint, whatever they are.
_BIGINT_DIGITS = 18
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
# Delta allows none of these in names, and no two that differ in case only.
_FORBIDDEN = re.compile(r"[ ,;{}()\n\t=]")
# Moments that readers other than PostgreSQL can hold.
_FIRST_DAY, _DAY_AFTER_LAST = "0001-01-01", "10000-01-01"
# Columns of the archive beside those of the table, with their types in Delta.
HOUSEKEEPING = {
    "_operation": "string",
    "_batch_id": "long",
    "_run_id": "long",
    "_warehouse_id": "string",
    "_captured_at": "timestamp",
    "_snapshot": "long",
    "_xid": "long",
    "_mirror_run_id": "long",
    "_rescued_data": "string",
}


@dataclass(frozen=True)
class StoredColumn:
    """A column of a table and how the archive stores it: name in Delta, name and type in PostgreSQL."""

    name: str
    column: str
    type: str

    @property
    def delta_type(self) -> str:
        """Its type in Delta."""
        return delta_type(self.type)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of its field in Delta."""
        return {"dwh.column": self.column, "dwh.type": self.type}


def delta_type(kind: str) -> str:
    """Type in Delta that stores the PostgreSQL type `kind`."""
    if match := _NUMERIC.fullmatch(kind):
        precision, scale = int(match[1]), int(match[2])
        return f"decimal({precision},{scale})" if scale <= precision <= 38 else "string"
    return _DELTA.get(without_modifier(kind), "string")


Fields = Mapping[str, dict[str, Any]]


def fields_with(columns: Sequence[StoredColumn]) -> dict[str, dict[str, Any]]:
    """Fields of a Delta table that has these columns, by name."""
    return {one.name: {"type": one.delta_type, "metadata": one.metadata} for one in columns}


def stored_columns(columns: Sequence[tuple[str, str]], fields: Fields) -> list[StoredColumn]:
    """Which field of a Delta table stores each of the `columns` (name, type in PostgreSQL).

    `fields` are those that the table has, by name, with `type` and `metadata`. A column whose type is stored as another
    type now has a new field, and so has one whose name Delta knows for something else.
    """
    taken = {name.lower() for name in (*fields, *HOUSEKEEPING)}
    stored = []
    for column, kind in columns:
        own = [
            name for name, field in fields.items()
            if field["metadata"].get("dwh.column") == column and field["type"] == delta_type(kind)
        ]  # fmt: skip
        name = own[-1] if own else _new_name(column, taken)
        taken.add(name.lower())
        stored.append(StoredColumn(name, column, kind))
    return stored


def _new_name(column: str, taken: Collection[str]) -> str:
    base = name = _FORBIDDEN.sub("_", column)
    number = 1
    while name.lower() in taken:
        number += 1
        name = f"{base}__{number}"
    return name


def selected(value: sql.Composable, kind: str) -> sql.Composable:
    """Expression of `value`, of PostgreSQL type `kind`, as the archive stores it; null where that cannot hold it.

    A decimal comes as its digits without the point where a bigint holds them, else as text: the driver takes three
    times as long to decode a numeric.
    """
    stored = delta_type(kind)
    if stored.startswith("decimal") or stored in ("timestamp", "date"):
        fitting = value
        if match := _NUMERIC.fullmatch(kind):
            unscaled = sql.SQL("({} * {})::bigint").format(value, sql.SQL("1" + "0" * int(match[2])))
            fitting = unscaled if int(match[1]) <= _BIGINT_DIGITS else sql.SQL("{}::text").format(value)
        return sql.SQL("case when {} then null else {} end").format(_does_not_fit(value, stored), fitting)
    if stored == "string" and without_modifier(kind) not in _DELTA:
        return sql.SQL("{}::text").format(value)
    return value


def rescued(values: Sequence[tuple[str, sql.Composable, str]]) -> sql.Composable:
    """Expression of the JSON object with the values that the archive's types cannot hold, null where it would be empty.

    `values` are column, expression and PostgreSQL type.
    """
    parts = [
        (sql.Literal(column), _does_not_fit(value, delta_type(kind)), value)
        for column, value, kind in values
        if delta_type(kind).startswith("decimal") or delta_type(kind) in ("timestamp", "date")
    ]
    if not parts:
        return sql.SQL("null::text")
    # A function takes a hundred arguments at most.
    objects = [
        sql.SQL("jsonb_build_object({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text, case when {} then {}::text end").format(name, misfit, value)
                for name, misfit, value in parts[start : start + 50]
            )
        )
        for start in range(0, len(parts), 50)
    ]
    return sql.SQL("case when {} then jsonb_strip_nulls({})::text end").format(
        sql.SQL(" or ").join(misfit for _, misfit, _ in parts), sql.SQL(" || ").join(objects)
    )


def _does_not_fit(value: sql.Composable, stored: str) -> sql.Composable:
    if stored.startswith("decimal"):
        return sql.SQL("{} = 'NaN'").format(value)
    kind = sql.SQL("timestamptz" if stored == "timestamp" else "date")
    zone = "+00" if stored == "timestamp" else ""
    return sql.SQL("({0} < {1}::{3} or {0} >= {2}::{3})").format(
        value,
        sql.Literal(f"{_FIRST_DAY} 00:00:00{zone}"),
        sql.Literal(f"{_DAY_AFTER_LAST} 00:00:00{zone}"),
        kind,
    )


def select_stored(
    columns: Sequence[StoredColumn],
    values: Mapping[str, sql.Composable],
    housekeeping: Mapping[str, sql.Composable],
    rows: sql.Composable,
) -> sql.Composed:
    """Query of `rows` in the archive's types, under the names that the columns have there.

    `values` are expressions by column; a column without one is null.
    """
    items = [
        sql.SQL("{} as {}").format(
            selected(values[one.column], one.type) if one.column in values else _null(one),
            sql.Identifier(one.name),
        )
        for one in columns
    ]
    given = [(one.column, values[one.column], one.type) for one in columns if one.column in values]
    more = {**housekeeping, "_rescued_data": rescued(given)}
    items += [sql.SQL("{} as {}").format(value, sql.Identifier(name)) for name, value in more.items()]
    return sql.SQL("select {} from {}").format(sql.SQL(", ").join(items), rows)


def _null(column: StoredColumn) -> sql.Composable:
    kind = "text" if column.delta_type == "string" else column.type
    return sql.SQL("null::{}").format(sql.SQL(kind))
