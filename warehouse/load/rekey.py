"""Re-key facts whose row is in quarantine: they keep their last good state, with the versions valid at their event."""

from psycopg import sql

from warehouse.db.identifiers import differ, listed, qualified, same_key, text_array
from warehouse.load import scd2
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import keys_where
from warehouse.model.star import DIMENSIONS, Fact

OUTDATED = sql.Identifier("pg_temp", "outdated_facts")


def rekey_quarantined(batch: Batch, fact: Fact) -> int:
    """Re-key facts whose version this run closed and whose new row failed, to the versions valid at their event.

    Returns the number of facts re-keyed.
    """
    if batch.is_full_load:
        return 0
    names: dict[str, sql.Composable] = {
        "fact_key": qualified("fact", fact.natural_key),
        "event": sql.Identifier(fact.event_time),
        "row_key": text_array(fact.natural_key, "changed"),
        "changed": keys_where(batch, "_is_outdated"),
        "same_changed": same_key(fact.natural_key, "fact", "changed"),
        "same_waiting": same_key(fact.natural_key, "fact", "waiting"),
        "same_outdated": same_key(fact.natural_key, "waiting", "outdated"),
        "outdated": OUTDATED,
    }
    waiting = batch.create_temporary(
        "waiting_facts",
        """
        select fact.* from ({changed}) as changed
        inner join {failing_rows} as failing on failing.row_key = {row_key}
        inner join {target} as fact on {same_changed} and fact.source_system = {source}
        """,
        **names,
    )
    if not waiting:
        return 0
    dimensions = [
        dimension
        for dimension in DIMENSIONS
        if dimension.has_history and dimension.entity in (*fact.references, *fact.derived)
    ]
    if not dimensions:
        return 0
    for dimension in dimensions:
        names |= {
            "dimension": sql.Identifier("dwh", dimension.table),
            "dimension_key": sql.Identifier(dimension.key),
            "natural": sql.Identifier(*dimension.natural_key),
        }
        if batch.create_temporary("outdated_facts", _FIND_OUTDATED, **names):
            # As in a load, infer members that a fact refers to directly, but not derived ones.
            if dimension.entity in fact.references:
                scd2.infer_missing(batch, dimension, OUTDATED, fact.event_time)
            batch.execute(_REKEY, **names)
    keys = [dimension.key for dimension in dimensions]
    return batch.execute(
        """
        update {target} as fact set ({keys}) = row({waiting_keys}), run_id = {run_id}
        from pg_temp.waiting_facts as waiting
        where {same_waiting} and fact.source_system = {source} and {differ}
        """,
        **names,
        keys=listed(keys),
        waiting_keys=qualified("waiting", keys),
        differ=differ(keys, "fact", "waiting"),
    ).rowcount


_FIND_OUTDATED = """
    select {fact_key}, named.source_system, fact.{event}, named.{natural}
    from pg_temp.waiting_facts as fact
    inner join {dimension} as named on fact.{dimension_key} = named.{dimension_key}
    where fact.{dimension_key} <> 0 and not (fact.{event} >= named.valid_from and fact.{event} < named.valid_to)
"""

_REKEY = """
    update pg_temp.waiting_facts as waiting set {dimension_key} = coalesce(version.{dimension_key}, 0)
    from {outdated} as outdated
    left join {dimension} as version
        on outdated.{natural} = version.{natural} and outdated.source_system = version.source_system
        and outdated.{event} >= version.valid_from and outdated.{event} < version.valid_to
    where {same_outdated}
"""
