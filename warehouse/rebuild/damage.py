"""Detect tables that were dropped or emptied by hand since the last run."""

from typing import Final

import psycopg
from psycopg import sql

from warehouse.extract.catalog import find_missing
from warehouse.model import weblog, weblog_aggregates
from warehouse.model.staging import staging_names
from warehouse.model.star import FACTS, TARGETS, Dimension
from warehouse.sources.source import Source

# Tables of the web logs: aggregates of the fact, and dimensions of its texts.
WEBLOG_AGGREGATES: Final = frozenset(f"dwh.{one.table}" for one in weblog_aggregates.TABLES)
WEBLOG_TEXTS: Final = tuple(one for one in weblog.DIMENSIONS if one != weblog.COUNTRY)
WEBLOG_TABLES: Final = frozenset({str(weblog.FACT), *map(str, WEBLOG_TEXTS), *WEBLOG_AGGREGATES})


def has_weblogs(connection: psycopg.Connection) -> bool:
    """Whether web logs were ever loaded. Callers ask this before they import the web-log engine, which is slow."""
    return bool(connection.execute("select from audit.file where feed = 'weblogs' limit 1").rowcount)


def are_weblogs_damaged(connection: psycopg.Connection) -> bool:
    """Whether a web-log or staging table is missing, or the fact is empty although files were loaded."""
    if not connection.execute(
        "select from audit.file where feed = 'weblogs' and rows_loaded > rows_removed limit 1"
    ).rowcount:
        return False
    missing = find_missing(connection, [*WEBLOG_TABLES, *staging_names()])
    return bool(missing) or not connection.execute("select from dwh.fact_weblog limit 1").rowcount


def find_damaged(connection: psycopg.Connection, source: Source) -> list[str]:
    """Return damaged tables as `schema.table`: missing mirrors, dimensions, facts and staging tables of `source`, and
    those that are empty although runs have filled them that were not undone, and no run has emptied them."""
    # A dimension with only its unknown member counts as empty: ignore the row with key 0.
    keys = {
        **{f"raw.{table.mirror}": "" for table in source.tables},
        **{
            f"dwh.{target.table}": target.key if isinstance(target, Dimension) else ""
            for target in TARGETS
            if target.entity in source.entities
        },
    }
    if not connection.execute(
        "select from audit.watermark where source = %s limit 1", [source.name]
    ).rowcount:
        return []
    # Staging tables may be empty: only missing ones are damaged.
    staging = staging_names()
    missing = {*find_missing(connection, [*keys, *staging])}
    # Migrations create the tables of the star, whatever runs have loaded.
    missing_always = missing.intersection(staging) | {name for name in missing if name.startswith("dwh.")}
    names = keys.keys() - missing
    empty = connection.execute(
        sql.SQL(" union all ").join(
            sql.SQL("select {} where not exists (select from {} where {})").format(
                sql.Literal(name),
                sql.Identifier(*name.split(".")),
                sql.SQL("{} <> 0").format(sql.Identifier(keys[name])) if keys[name] else sql.SQL("true"),
            )
            for name in sorted(names)
        )
    ).fetchall() if names else []  # fmt: skip
    suspects = (keys.keys() - names) | {name for (name,) in empty}
    if not suspects:
        return sorted(missing_always)
    filled = connection.execute(
        """
        select load.table_name from audit.load inner join audit.run using (run_id)
        where load.source = %s and load.table_name = any(%s)
        group by load.source, load.table_name
        having sum(rows_inserted) filter (where run.undone_by_run_id is null) > 0
            -- A fact may be empty because its source rows were deleted. An undo deletes what the undone run inserted.
            and (load.table_name <> all(%s) or sum(rows_inserted) > sum(rows_deleted))
            -- A feed's mirror may be empty because all its records went to quarantine.
            and (
                load.table_name is distinct from %s
                or exists (select from audit.file where feed = load.source and rows_loaded > 0)
            )
        """,
        [
            source.name, list(suspects), [f"dwh.{one.table}" for one in FACTS],
            f"raw.{source.record.mirror}" if source.feed else None,
        ],
    ).fetchall()  # fmt: skip
    return sorted({name for (name,) in filled} | missing_always)
