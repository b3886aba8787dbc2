"""Tables that somebody has dropped or emptied since the last run: what a run finds."""

from typing import Final

import psycopg
from psycopg import sql

from warehouse.extract.catalog import find_missing
from warehouse.model import weblog, weblog_aggregates
from warehouse.model.staging import staging_names
from warehouse.model.star import FACTS, TARGETS, Dimension
from warehouse.sources.source import Source

# Tables of the web logs: those that are counted from the fact, and dictionaries of its texts.
WEBLOG_AGGREGATES: Final = frozenset(f"dwh.{one.table}" for one in weblog_aggregates.TABLES)
WEBLOG_TEXTS: Final = tuple(one for one in weblog.DIMENSIONS if one != weblog.COUNTRY)
WEBLOG_TABLES: Final = frozenset({str(weblog.FACT), *map(str, WEBLOG_TEXTS), *WEBLOG_AGGREGATES})


def has_weblogs(connection: psycopg.Connection) -> bool:
    """Whether files of web logs were ever read: asked before the engine that reads them is imported."""
    return bool(connection.execute("select from audit.file where feed = 'weblogs' limit 1").rowcount)


def are_weblogs_damaged(connection: psycopg.Connection) -> bool:
    """Whether a table of the web logs, or of staging, does not exist, or the fact is empty though files were loaded."""
    if not connection.execute(
        "select from audit.file where feed = 'weblogs' and rows_loaded > rows_removed limit 1"
    ).rowcount:
        return False
    missing = find_missing(connection, [*WEBLOG_TABLES, *staging_names()])
    return bool(missing) or not connection.execute("select from dwh.fact_weblog limit 1").rowcount


def find_damaged(connection: psycopg.Connection, source: Source) -> list[str]:
    """Mirrors, dimensions and facts of `source`, as `schema.table`, that do not exist, or are empty though runs that
    were not undone have filled them, and no run has emptied them; and staging tables that do not exist."""
    # Of a dimension the row of the unknown member does not count.
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
    # Nothing in a staging table is kept: it is missing, or as it should be.
    staging = staging_names()
    missing = {*find_missing(connection, [*keys, *staging])}
    missing_staging = missing.intersection(staging)
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
        return sorted(missing_staging)
    filled = connection.execute(
        """
        select load.table_name from audit.load inner join audit.run using (run_id)
        where load.source = %s and load.table_name = any(%s)
        group by load.source, load.table_name
        having sum(rows_inserted) filter (where run.undone_by_run_id is null) > 0
            -- Rows of a fact are deleted with their source rows; an undo counts against what it undid.
            and (load.table_name <> all(%s) or sum(rows_inserted) > sum(rows_deleted))
            -- Records of a feed may all have gone to quarantine.
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
    return sorted({name for (name,) in filled} | missing_staging)
