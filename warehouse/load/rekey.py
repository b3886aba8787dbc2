"""Facts whose line waits in quarantine: they keep their last good state, and name versions that hold at their event."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.load import scd2
from warehouse.model.star import DIMENSIONS, Fact

OUTDATED = sql.Identifier("pg_temp", "outdated")


def rekey_waiting(
    connection: psycopg.Connection, run_id: int, source: str, fact: Fact, outdated: sql.Composable
) -> int:
    """Give facts that could not be replaced the versions that hold at their event; how many facts.

    They are those whose natural key `outdated` selects and whose line is in pg_temp.failing.
    """
    names: dict[str, sql.Composable] = {
        "fact": sql.Identifier("dwh", fact.table),
        "fact_key": qualified("fact", fact.natural_key),
        "event": sql.Identifier(fact.event_time),
        "row_key": sql.SQL("array[{}]").format(qualified("affected", fact.natural_key)),
        "same_affected": same_key(fact.natural_key, "fact", "affected"),
        "affected": outdated,
        "same": same_key(fact.natural_key, "fact", "kept"),
        "same_kept": same_key(fact.natural_key, "kept", "outdated"),
        "source": sql.Literal(source),
        "run_id": sql.Literal(run_id),
        "outdated": OUTDATED,
    }
    kept = connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.kept;
            create temp table kept on commit drop as
            select fact.* from ({affected}) as affected
            inner join pg_temp.failing as failing on failing.row_key = {row_key}
            inner join {fact} as fact on {same_affected} and fact.source_system = {source}
            """
        ).format(**names)
    )
    if not kept.rowcount:
        return 0
    concerned = [
        dimension
        for dimension in DIMENSIONS
        if dimension.has_history and dimension.entity in (*fact.references, *fact.derived)
    ]
    for dimension in concerned:
        (natural,) = dimension.natural_key
        names |= {
            "dimension": sql.Identifier("dwh", dimension.table),
            "dimension_key": sql.Identifier(dimension.key),
            "natural": sql.Identifier(natural),
        }
        if connection.execute(sql.SQL(_FIND_OUTDATED).format(**names)).rowcount:
            # As a load does: who is named by a line is inferred, who is reached through another one is not.
            if dimension.entity in fact.references:
                scd2.infer_missing(connection, run_id, source, dimension, OUTDATED, fact.event_time)
            connection.execute(sql.SQL(_REKEY).format(**names))
    keys = [dimension.key for dimension in concerned]
    return connection.execute(
        sql.SQL(
            """
            update {fact} as fact set ({keys}) = row({kept_keys}), run_id = {run_id}
            from pg_temp.kept as kept
            where {same} and fact.source_system = {source}
                and row({fact_keys}) is distinct from row({kept_keys})
            """
        ).format(
            **names, keys=listed(keys), kept_keys=qualified("kept", keys), fact_keys=qualified("fact", keys)
        )
    ).rowcount


_FIND_OUTDATED = """
    drop table if exists {outdated};
    create temp table outdated on commit drop as
    select {fact_key}, fact.source_system, fact.{event}, named.{natural}
    from pg_temp.kept as fact
    inner join {dimension} as named on fact.{dimension_key} = named.{dimension_key}
    where fact.{dimension_key} <> 0 and not (fact.{event} >= named.valid_from and fact.{event} < named.valid_to)
"""

_REKEY = """
    update pg_temp.kept as kept set {dimension_key} = coalesce(version.{dimension_key}, 0)
    from {outdated} as outdated
    left join {dimension} as version
        on outdated.{natural} = version.{natural} and outdated.source_system = version.source_system
        and outdated.{event} >= version.valid_from and outdated.{event} < version.valid_to
    where {same_kept}
"""
