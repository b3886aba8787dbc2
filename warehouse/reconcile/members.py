"""Dimensions without history: each member as its source has it now."""

import time

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.load.conform import batch_table
from warehouse.model.star import Dimension
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import Comparison, reconcile_table
from warehouse.reconcile.keys import find_lost_keys
from warehouse.reconcile.verdict import Verdict
from warehouse.sources.declaration import Entity


def reconcile_members(
    connection: psycopg.Connection, run_id: int, entity: Entity, dimension: Dimension
) -> Verdict:
    """Mend an SCD1 dimension by its batch.

    A member that the batch lacks is marked as deleted if its mirror knows it, and was never there if it does not.
    """
    started = time.monotonic()
    find_lost_keys(connection, entity, dimension)
    (natural,) = dimension.natural_key
    columns = (dimension.key, *dimension.attributes, "is_inferred", "is_deleted")
    names = {
        "dimension": sql.Identifier("dwh", dimension.table),
        "batch": batch_table(dimension.entity),
        "mirror": sql.Identifier("raw", entity.table.mirror),
        "mirror_key": sql.Identifier("mirror", entity.table.key[0]),
        "waiting": waiting_table(dimension.entity),
        "key": sql.Identifier(dimension.key),
        "natural": sql.Identifier(natural),
        "columns": listed([natural, *columns]),
        "attributes": qualified("batch", dimension.attributes),
        "member_attributes": qualified("member", dimension.attributes),
        "sequence": sql.Literal(f"dwh.{dimension.table}"),
        "key_name": sql.Literal(dimension.key),
        "source": sql.Literal(entity.source),
    }
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.expected;
            create temp table expected on commit drop as select {columns} from {dimension} limit 0;
            insert into pg_temp.expected ({columns})
            select batch.{natural},
                coalesce(member.{key}, lost.key, nextval(pg_get_serial_sequence({sequence}, {key_name}))),
                {attributes}, false, false
            from {batch} as batch
            left join {dimension} as member
                on member.{natural} = batch.{natural} and member.source_system = batch.source_system
            left join pg_temp.lost_key as lost on lost.natural_id = batch.{natural};
            insert into pg_temp.expected ({columns})
            select member.{natural}, member.{key}, {member_attributes}, member.is_inferred,
                member.is_deleted or not member.is_inferred and waiting.row_key is null
            from {dimension} as member
            left join {waiting} as waiting on waiting.row_key = array[member.{natural}]
            where member.source_system = {source}
                and not exists (select from {batch} as batch where batch.{natural} = member.{natural})
                and (
                    member.is_inferred or waiting.row_key is not null
                    or exists (select from {mirror} as mirror where {mirror_key}::text = member.{natural})
                );
            """
        ).format(**names)
    )
    comparison = Comparison(
        "star",
        entity.source,
        "dwh",
        dimension.table,
        sql.Identifier("pg_temp", "expected"),
        dimension.natural_key,
        columns,
        sql.SQL("found.source_system = {source}").format(**names),
        {"source_system": sql.Literal(entity.source), "run_id": sql.Literal(run_id)},
    )
    return reconcile_table(connection, comparison).timed(started)
