"""SCD1: overwrite members of dimensions without history, and mark deleted members, since facts refer to them."""

from psycopg import sql

from warehouse.db.identifiers import assigned, differ, listed
from warehouse.load.batch import Batch
from warehouse.load.counts import Counts
from warehouse.load.scd2 import OWN_SOURCE
from warehouse.model.star import Dimension


def merge(batch: Batch, dimension: Dimension) -> Counts:
    """Merge conformed rows and deleted keys into an SCD1 dimension."""
    names = {
        "natural": sql.Identifier(*dimension.natural_key),
        "attributes": listed(dimension.attributes),
        "assigned": assigned(dimension.attributes, "excluded"),
        "differ": differ(dimension.attributes, "member", "excluded"),
    }
    existing, rows = batch.execute(
        """
        select count(member.{natural}), count(*)
        from {conformed} as conformed left join {target} as member using ({natural}, source_system)
        """,
        **names,
    ).fetchone() or (0, 0)
    merged = batch.execute(
        """
        insert into {target} as member (source_system, {natural}, {attributes}, run_id)
        select source_system, {natural}, {attributes}, {run_id} from {conformed}
        on conflict ({natural}, source_system) do update
        set {assigned}, is_inferred = false, is_deleted = false, run_id = excluded.run_id
        where {differ} or member.is_inferred or member.is_deleted
        """,
        **names,
    ).rowcount
    deleted = batch.execute(
        """
        update {target} as member set is_deleted = true, run_id = {run_id}
        from {deleted_keys} as deleted
        where member.{natural} = deleted.{natural} and member.source_system = {source}
            and not member.is_deleted and not member.is_inferred
        """,
        **names,
    ).rowcount
    inserted = rows - existing
    return Counts(inserted=inserted, updated=merged - inserted, deleted=deleted)


def infer_missing(
    batch: Batch, dimension: Dimension, facts: sql.Identifier, member_source: sql.Composable = OWN_SOURCE
) -> int:
    """Insert an inferred row for each missing member that `facts` refer to; returns their number.

    `member_source` is the expression, over a row `fact`, for the source system of its member.
    """
    names = {
        "facts": facts,
        "member_source": member_source,
        "dimension": sql.Identifier("dwh", dimension.table),
        "natural": sql.Identifier(*dimension.natural_key),
        "key": sql.Identifier(dimension.key),
    }
    # CREATE TABLE AS may run its query in parallel, INSERT may not, and the batch may be large.
    batch.create_temporary(
        "missing_members",
        """
        select distinct {member_source} as source_system, fact.{natural}
        from {facts} as fact
        left join {dimension} as member
            on member.{natural} = fact.{natural} and member.source_system = {member_source}
        where fact.{natural} is not null and member.{key} is null
        """,
        **names,
    )
    return batch.execute(
        """
        insert into {dimension} (source_system, {natural}, is_inferred, run_id)
        select source_system, {natural}, true, {run_id} from pg_temp.missing_members
        """,
        **names,
    ).rowcount
