"""SCD1: a dimension without history is overwritten in place; a member that vanished is marked, since facts name it."""

import psycopg
from psycopg import sql

from warehouse.load.conform import batch_table
from warehouse.model.star import Dimension


def overwrite(
    connection: psycopg.Connection, run_id: int, source: str, dimension: Dimension
) -> dict[str, int]:
    """Merge the batch and pg_temp.removed into an SCD1 dimension; rows inserted, updated and deleted."""
    (natural,) = dimension.natural_key
    names = {
        "dimension": sql.Identifier("dwh", dimension.table),
        "batch": batch_table(dimension.entity),
        "natural": sql.Identifier(natural),
        "attributes": sql.SQL(", ").join(map(sql.Identifier, dimension.attributes)),
        "assigned": sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in dimension.attributes
        ),
        "before": sql.SQL(", ").join(sql.Identifier("member", name) for name in dimension.attributes),
        "after": sql.SQL(", ").join(sql.Identifier("excluded", name) for name in dimension.attributes),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
    }
    known = connection.execute(
        sql.SQL(
            "select count(*) from {batch} as batch inner join {dimension} as member using ({natural}, source_system)"
        ).format(**names)
    ).fetchone()
    assert known is not None
    merged = connection.execute(
        sql.SQL(
            """
            insert into {dimension} as member (source_system, {natural}, {attributes}, run_id)
            select source_system, {natural}, {attributes}, {run_id} from {batch}
            on conflict ({natural}, source_system) do update
            set {assigned}, is_inferred = false, is_deleted = false, run_id = excluded.run_id
            where row({before}) is distinct from row({after}) or member.is_inferred or member.is_deleted
            """
        ).format(**names)
    )
    (batch,) = connection.execute(sql.SQL("select count(*) from {batch}").format(**names)).fetchone() or (0,)
    inserted = batch - known[0]
    deleted = connection.execute(
        sql.SQL(
            """
            update {dimension} as member set is_deleted = true, run_id = {run_id}
            from pg_temp.removed as removed
            where member.{natural} = removed.{natural} and member.source_system = {source} and not member.is_deleted
            """
        ).format(**names)
    )
    return {"inserted": inserted, "updated": merged.rowcount - inserted, "deleted": deleted.rowcount}


def infer_missing(connection: psycopg.Connection, run_id: int, dimension: Dimension, batch: str) -> int:
    """Give each member that the batch of facts names and the dimension lacks an inferred row."""
    (natural,) = dimension.natural_key
    names = {
        "dimension": sql.Identifier("dwh", dimension.table),
        "natural": sql.Identifier(natural),
        "key": sql.Identifier(dimension.key),
        "facts": batch_table(batch),
        "run_id": sql.Literal(run_id),
    }
    # Found first, inserted then: only a query that writes nothing may run in parallel, and the batch may be large.
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.missing;
            create temp table missing on commit drop as
            select distinct fact.source_system, fact.{natural}
            from {facts} as fact
            left join {dimension} as member using ({natural}, source_system)
            where fact.{natural} is not null and member.{key} is null
            """
        ).format(**names)
    )
    inferred = connection.execute(
        sql.SQL(
            """
            insert into {dimension} (source_system, {natural}, is_inferred, run_id)
            select source_system, {natural}, true, {run_id} from pg_temp.missing
            """
        ).format(**names)
    )
    return inferred.rowcount
