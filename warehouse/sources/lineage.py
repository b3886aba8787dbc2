"""What tables are made of: from a source's tables and files over mirrors and the star to the stored marts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

from warehouse.model.star import TARGETS, Dimension
from warehouse.sources.declaration import Source, read_declaration
from warehouse.sources.registry import declared_sources

Lineage = Mapping[str, tuple[str, ...]]

STORED = """
    select mart.oid::regclass::text, array_agg(distinct used.refobjid::regclass::text)
    from pg_class as mart
    inner join pg_rewrite as rule on rule.ev_class = mart.oid
    inner join pg_depend as used on used.objid = rule.oid and used.refobjid <> mart.oid
    where mart.relkind = 'm' and mart.relnamespace = 'mart'::regnamespace
        and used.classid = 'pg_rewrite'::regclass and used.refclassid = 'pg_class'::regclass
    group by mart.oid
"""


def read_lineage(
    connection: psycopg.Connection, sources: Iterable[str], folder: Path | None = None
) -> Lineage:
    """By table, what it is made of, for the tables of `sources`, the web logs and the stored marts.

    `folder` holds the declarations that are not packaged (DWH_SOURCES).

    Tables of the warehouse are told by their names, what lies outside as `source://schema/table` or `lake://feed`.
    """
    known: dict[str, tuple[str, ...]] = {"dwh.fact_weblog": ("lake://weblogs",)}
    known |= {mart: tuple(tables) for mart, tables in connection.execute(STORED).fetchall()}
    declared = declared_sources(folder)
    for source in set(sources) & declared.keys():
        for table, origins in _of(read_declaration(declared[source])).items():
            known[table] = tuple(dict.fromkeys((*known.get(table, ()), *origins)))
    return known


def _of(source: Source) -> Lineage:
    known: dict[str, tuple[str, ...]] = {
        f"raw.{table.mirror}": (f"{source.name}://{'/'.join(table.at_source)}",) for table in source.tables
    }
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            dimensions = () if isinstance(target, Dimension) else (*target.references, *target.derived)
            known[f"dwh.{target.table}"] = (
                *(f"raw.{table.mirror}" for table in entity.reads),
                *(f"dwh.dim_{name}" for name in dimensions),
            )
    return known
