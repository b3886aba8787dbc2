"""Lineage of tables: from sources' tables and files through mirrors and the star to the stored marts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from warehouse.model.mart import Mart, read_marts, stored_marts
from warehouse.model.star import TARGETS, Dimension
from warehouse.sources.declaration import read_declaration
from warehouse.sources.registry import declared_sources
from warehouse.sources.source import Source

Lineage = Mapping[str, tuple[str, ...]]

_LOADED = {"fact_weblog", *(target.table for target in TARGETS)}


def read_lineage(sources: Iterable[str], folder: Path | None = None) -> Lineage:
    """Return the inputs of each table that `sources`, the web logs or the marts fill, by table.

    `folder` has the declarations that are not packaged (DWH_SOURCES). Tables of the warehouse are written as
    schema.table, inputs outside of it as `source://schema/table` or `lake://feed`.
    """
    lineage: dict[str, tuple[str, ...]] = {"dwh.fact_weblog": ("lake://weblogs",)}
    lineage |= {f"mart.{mart.name}": tuple(tables_read_by(mart)) for mart in stored_marts()}
    declared = declared_sources(folder)
    for source in set(sources) & declared.keys():
        for table, origins in _of(read_declaration(declared[source])).items():
            lineage[table] = tuple(dict.fromkeys((*lineage.get(table, ()), *origins)))
    return lineage


def tables_read_by(mart: Mart) -> Iterable[str]:
    """Return the star tables and stored marts that a mart's query reads, directly or through views."""
    tables: dict[str, None] = {}
    for schema, name in mart.relations():
        used = read_marts().get(name) if schema == "mart" else None
        if name in _LOADED or (used is not None and used.kind != "view"):
            tables[f"{schema}.{name}"] = None
        elif used is not None:
            tables |= dict.fromkeys(tables_read_by(used))
    return tables


def _of(source: Source) -> Lineage:
    lineage: dict[str, tuple[str, ...]] = {
        f"raw.{table.mirror}": (
            f"lake://{source.name}" if source.feed else f"{source.name}://{'/'.join(table.at_source)}",
        )
        for table in source.tables
    }
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            dimensions = () if isinstance(target, Dimension) else (*target.references, *target.derived)
            lineage[f"dwh.{target.table}"] = (
                *(f"raw.{table.mirror}" for table in entity.reads),
                *(f"dwh.dim_{name}" for name in dimensions),
                *(f"dwh.{join.table}" for join in entity.follows),
            )
    return lineage
