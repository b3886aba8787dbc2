"""The report's data catalogue: every table and view with its columns, lineage and owner."""

from collections.abc import Sequence
from dataclasses import dataclass

from warehouse.model.documentation import Column, Relation
from warehouse.model.mart import read_marts
from warehouse.sources.lineage import read_lineage, tables_read_by
from warehouse.sources.registry import declared_sources

ENGINEERS = "data engineering"


@dataclass(frozen=True)
class Entry:
    """A table or view in the catalogue."""

    name: str
    description: str
    grain: str
    owner: str
    origins: Sequence[str]
    columns: Sequence[Column]


def describe(relations: Sequence[Relation]) -> list[Entry]:
    """Return the entries of all relations, marts first."""
    origins = read_lineage(declared_sources())
    marts = read_marts()
    entries = []
    for relation in sorted(relations, key=lambda one: (one.schema != "mart", one.schema != "dwh")):
        mart = marts.get(relation.name.removesuffix("_masked")) if relation.schema == "mart" else None
        name = f"{relation.schema}.{relation.name}"
        entries.append(
            Entry(
                name,
                relation.comment,
                mart.stated_grain if mart else "",
                mart.owner if mart else ENGINEERS,
                origins.get(name, ())
                or (tuple(tables_read_by(mart)) if mart and not mart.written_by else ()),
                relation.columns,
            )
        )
    return entries
