"""Map PostgreSQL types to Delta types. A type without an equivalent in Delta is stored as PostgreSQL's text."""

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
# Every number of up to 18 digits fits into a bigint.
_BIGINT_DIGITS = 18
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
# Delta forbids these characters in column names, and names that differ in case only.
_FORBIDDEN = re.compile(r"[ ,;{}()\n\t=]")
# The range of dates and timestamps that readers other than PostgreSQL can represent.
_FIRST_DAY, _DAY_AFTER_LAST = "0001-01-01", "10000-01-01"
# Columns that the archive adds to those of the table, with their Delta types.
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
    """A column as the archive stores it: `name` in Delta, `column` and `type` in PostgreSQL."""

    name: str
    column: str
    type: str

    @property
    def delta_type(self) -> str:
        """The column's Delta type."""
        return delta_type(self.type)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the Delta field: the column's PostgreSQL name and type."""
        return {"dwh.column": self.column, "dwh.type": self.type}


def delta_type(kind: str) -> str:
    """Return the Delta type that stores the PostgreSQL type `kind`."""
    if match := _NUMERIC.fullmatch(kind):
        precision, scale = int(match[1]), int(match[2])
        return f"decimal({precision},{scale})" if scale <= precision <= 38 else "string"
    return _DELTA.get(without_modifier(kind), "string")


Fields = Mapping[str, dict[str, Any]]


def fields_with(columns: Sequence[StoredColumn]) -> dict[str, dict[str, Any]]:
    """Return the fields of a Delta table with these columns, by name."""
    return {one.name: {"type": one.delta_type, "metadata": one.metadata} for one in columns}


def stored_columns(columns: Sequence[tuple[str, str]], fields: Fields) -> list[StoredColumn]:
    """Find the Delta field for each of the `columns` (name, PostgreSQL type), or name a new one.

    `fields` are the table's present fields by name, with `type` and `metadata`. A column gets a new field if its Delta
    type has changed, or if another column already uses its name.
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
    """Return SQL that converts `value`, of PostgreSQL type `kind`, to the archive's type; null if it does not fit.

    A numeric is selected as an unscaled bigint if its digits fit, else as text: ADBC decodes numerics three times
    slower.
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
    """Return SQL for a JSON object of the values that do not fit the archive's types; null if all fit.

    `values` are column, expression and PostgreSQL type.
    """
    parts = [
        (sql.Literal(column), _does_not_fit(value, delta_type(kind)), value)
        for column, value, kind in values
        if delta_type(kind).startswith("decimal") or delta_type(kind) in ("timestamp", "date")
    ]
    if not parts:
        return sql.SQL("null::text")
    # PostgreSQL functions take at most 100 arguments: 50 pairs of name and value.
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
    """Return a query that selects `rows` in the archive's types and column names.

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
