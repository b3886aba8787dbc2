"""Declared views and functions: read from their files, and sorted by their dependencies."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SchemaObject:
    """A view or function. `definition` is the view's query, or what follows the function's name."""

    kind: Literal["view", "function"]
    schema: str
    name: str
    definition: str

    @property
    def full_name(self) -> str:
        """`schema.name`; of a function `schema.name()`."""
        return f"{self.schema}.{self.name}{'()' if self.kind == 'function' else ''}"

    def create(self) -> str:
        """Statement that creates it, or replaces it if its columns or arguments stay the same."""
        if self.kind == "function":
            return f"create or replace function {self.schema}.{self.name}{self.definition}"
        return f"create or replace view {self.schema}.{self.name} as {self.definition}"

    def create_temporary(self) -> str:
        """Statement that creates it in pg_temp, to compare it with the one that the database has."""
        if self.kind == "function":
            return f"create function pg_temp.{self.name}{self.definition}"
        return f"create temp view {self.name} as {self.definition}"


def read_views(folder: Path, schema: str) -> list[SchemaObject]:
    """One view per file of `folder`."""
    return [
        SchemaObject("view", schema, path.stem, path.read_text()) for path in sorted(folder.glob("*.sql"))
    ]


def read_functions(folder: Path, schema: str) -> list[SchemaObject]:
    """One function per file of `folder`: comments, then `create function schema.name(…)`."""
    functions = []
    for path in sorted(folder.glob("*.sql")):
        start = f"create function {schema}.{path.stem}"
        _, separator, definition = path.read_text().partition(start)
        assert separator, f"{path} does not say `{start}`"
        functions.append(SchemaObject("function", schema, path.stem, definition.rstrip().rstrip(";")))
    return functions


def in_order(objects: Iterable[SchemaObject]) -> list[SchemaObject]:
    """Sort objects, each after those that its definition names."""
    by_name = {f"{one.schema}.{one.name}": one for one in objects}
    graph = {
        name: {
            used
            for used in re.findall(r"\b\w+\.\w+", re.sub(r"--.*", "", one.definition))
            if used in by_name and used != name
        }
        for name, one in by_name.items()
    }
    return [by_name[name] for name in TopologicalSorter(graph).static_order()]
