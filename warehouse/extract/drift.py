"""Schema drift: how a source table differs from its mirror, and what the source's policy does about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from warehouse.db.identifiers import to_paste
from warehouse.db.type_names import without_modifier
from warehouse.errors import DeclarationError, SchemaDrift
from warehouse.extract.catalog import Mirror
from warehouse.extract.column import Column
from warehouse.sources.source import Table


@dataclass(frozen=True)
class Drift:
    """How a source table differs from its mirror, and the columns to capture by the source's policy."""

    columns: tuple[Column, ...]
    # One message for each change: what it is, and what is done about it.
    messages: tuple[str, ...] = ()
    # True if a new column (by its default) or another type changes rows that no transaction wrote.
    needs_full_refresh: bool = False


def find_drift(mirror: Mirror, table: Table, columns: Sequence[Column]) -> Drift:
    """Compare the `columns` of a source table with its mirror, and decide which of them to capture.

    Raises:
        SchemaDrift: a column is new, gone or of another type, and the source's policy is to stop.
        DeclarationError: the mirror has another key.
    """
    mirrored, key = mirror.columns, mirror.key
    if not mirrored:
        return Drift(tuple(columns), needs_full_refresh=True)
    if key and key != table.key:
        raise DeclarationError(
            f"Source '{table.source}' declares ({', '.join(table.key)}) as key of {table}, "
            f"which was captured by ({', '.join(key)}).",
            hint=f"Declare the old key again, or capture the table again in full: {_drop(table)}",
        )
    now = {column.name: column.type for column in columns}
    policy = table.on_schema_change
    changes = [
        (policy.dropped_column, f"{name} was dropped") for name in sorted(mirrored.keys() - now.keys())
    ]
    changes += [
        (policy.changed_type, f"{name} is {now[name]} and was {kind}")
        for name, kind in sorted(mirrored.items())
        if now.get(name, kind) != kind
    ]
    changes += [(policy.new_column, f"{name} is new") for name in sorted(now.keys() - mirrored.keys())]
    if retyped := sorted(
        name for name in table.key if name in mirrored and not hash_alike(mirrored[name], now[name])
    ):
        raise SchemaDrift(
            f"Table {table} of source '{table.source}' has changed: its key {retyped[0]} is "
            f"{now[retyped[0]]} and was {mirrored[retyped[0]]}, and rows are matched by it.",
            hint=f"Capture the table again in full: {_drop(table)}",
        )
    if any(action == "stop" for action, _ in changes):
        raise SchemaDrift(
            f"Table {table} of source '{table.source}' has changed: {'; '.join(change for _, change in changes)}.",
            hint="Adapt the conform SQL, then let the mirror follow: evolve (or ignore) under [on_schema_change] in "
            f"the source.toml of '{table.source}'.",
        )
    captured = tuple(
        column
        if mirrored.get(column.name, column.type) == column.type or policy.changed_type == "evolve"
        # The mirror keeps its type: the source casts to it.
        else replace(column, type=mirrored[column.name], cast=mirrored[column.name])
        for column in columns
        if column.name in mirrored or policy.new_column == "evolve"
    )
    actions = {"evolve": "the mirror follows", "ignore": "ignored"}
    return Drift(
        captured,
        tuple(f"{change} ({actions[action]})" for action, change in changes),
        needs_full_refresh=any(mirrored.get(column.name) != column.type for column in captured),
    )


def hash_alike(*types: str) -> bool:
    """Whether equal values of these types compare as equal and have the same hash."""
    families = {"smallint": "integer", "bigint": "integer", "character varying": "text"}
    return len({families.get(plain := without_modifier(kind), plain) for kind in types}) == 1


def _drop(table: Table) -> str:
    return f"`drop table {to_paste('raw', table.mirror)}` in the warehouse (`dwh psql`), and run again."
