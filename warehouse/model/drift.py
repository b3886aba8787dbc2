"""Find schema drift: where the tables of a database differ from the declared ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg

from warehouse.model.schema import TABLES, create_table
from warehouse.model.tables import Table

SHAPES = (Path(__file__).parent / "catalog" / "shapes.sql").read_text()
# Name prefixes of the star's tables by schema; tables with these prefixes must be declared.
STAR_TABLES = {"dwh": ("dim_", "fact_"), "staging": ("conformed_",)}


class Part(NamedTuple):
    """A part of a table: the table itself, or a column, constraint or index."""

    kind: str
    name: str


@dataclass(frozen=True)
class Shape:
    """Definition of a part of a table, as the catalog has it."""

    definition: str
    is_required: bool = False
    default: str | None = None
    comment: str | None = None


@dataclass(frozen=True)
class Difference:
    """A part of a table whose declared shape differs from the one found in the database; None where it is missing."""

    table: str
    part: Part
    declared: Shape | None
    found: Shape | None

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.part.kind, self.part.name)))
        if self.found is None:
            return f"{self.table}: {what} is declared, and not in the database"
        if self.declared is None:
            return f"{self.table}: {what} is in the database, and not declared"
        return f"{self.table}: {what} is declared as {self.declared}, and is {self.found}"

    @property
    def hint(self) -> str:
        """What to do about it; `dwh migrate` changes tables by numbered migrations only."""
        if self.declared is None:
            return "Drop it; to have it, declare it and run `dwh migrate --new TITLE`."
        else_ = (
            f"let a login that has role dwh_owner run `dwh rebuild {self.table}`"
            if self.is_missing_table
            else "restore the table as declared"
        )
        return f"If the declaration is new, run `dwh migrate --new TITLE`; else {else_}."

    @property
    def is_missing_table(self) -> bool:
        """Whether the table itself is missing in the database."""
        return self.found is None and self.part.kind == "table"


Shapes = Mapping[tuple[str, str], Mapping[Part, Shape]]


def find_drift(connection: psycopg.Connection, tables: Sequence[Table] = TABLES) -> list[Difference]:
    """Compare declared tables with the catalog; comments are compared by `find_comment_drift`.

    Declared tables are created as temporary tables and rolled back, so that the server formats both definitions.
    """
    with connection.transaction(force_rollback=True):
        for table in tables:
            for statement in create_table(table, temporary=True):
                connection.execute(statement.encode())
        shapes = _read_shapes(connection)
    differences = []
    for table in tables:
        declared = _without_comments(shapes["pg_temp", table.name])
        existing = _without_comments(shapes.get((table.schema, table.name), {}))
        differences += [
            Difference(str(table), part, declared.get(part), existing.get(part))
            for part in dict.fromkeys((*declared, *existing))
            if declared.get(part) != existing.get(part)
        ]
    names = {(table.schema, table.name) for table in tables}
    differences += [
        Difference(f"{schema}.{name}", Part("table", ""), None, parts[Part("table", "")])
        for (schema, name), parts in shapes.items()
        if name.startswith(STAR_TABLES.get(schema, ("\0",))) and (schema, name) not in names
    ]
    return differences


def find_comment_drift(connection: psycopg.Connection, tables: Sequence[Table] = TABLES) -> list[Difference]:
    """Compare the declared comments of tables and columns with the catalog's."""
    shapes = _read_shapes(connection)
    differences = []
    for table in tables:
        declared = {Part("table", ""): table.description}
        declared |= {Part("column", column.name): column.comment for column in table.columns}
        existing = shapes.get((table.schema, table.name), {})
        differences += [
            Difference(str(table), part, Shape("", comment=comment), existing.get(part))
            for part, comment in declared.items()
            if part not in existing or existing[part].comment != comment
        ]
    return differences


def _read_shapes(connection: psycopg.Connection) -> Shapes:
    shapes: dict[tuple[str, str], dict[Part, Shape]] = {}
    for schema, table, kind, name, *shape in connection.execute(SHAPES.encode()).fetchall():
        shapes.setdefault((schema, table), {})[Part(kind, name)] = Shape(*shape)
    return shapes


def _without_comments(parts: Mapping[Part, Shape]) -> dict[Part, Shape]:
    return {part: Shape(shape.definition, shape.is_required, shape.default) for part, shape in parts.items()}
