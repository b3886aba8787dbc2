"""Reconcile SCD1 dimensions: compare each member with its conformed row."""

import time

from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.load.batch import Batch
from warehouse.load.natural_keys import natural_values
from warehouse.model.star import Dimension
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table
from warehouse.reconcile.keys import find_lost_keys
from warehouse.reconcile.verdict import Verdict


def reconcile_members(batch: Batch, dimension: Dimension) -> Verdict:
    """Repair an SCD1 dimension from its batch.

    A member without a conformed row is marked as deleted if the mirror has it, and removed if it does not. One that is
    marked already stays: a mirror that was made again does not have it, and facts may refer to it.
    """
    started = time.monotonic()
    find_lost_keys(batch, dimension)
    (natural,) = dimension.natural_key
    columns = (dimension.key, *dimension.attributes, "is_inferred", "is_deleted")
    names = {
        "mirror_key": natural_values(batch.entity, "mirror")[natural],
        "waiting": waiting_table(dimension.entity),
        "key": sql.Identifier(dimension.key),
        "natural": sql.Identifier(natural),
        "columns": listed([natural, *columns]),
        "attributes": qualified("conformed", dimension.attributes),
        "member_attributes": qualified("member", dimension.attributes),
        "sequence": sql.Literal(f"dwh.{dimension.table}"),
        "key_name": sql.Literal(dimension.key),
    }
    batch.execute(
        """
            drop table if exists pg_temp.expected;
            create temp table expected on commit drop as select {columns} from {target} limit 0;
            insert into pg_temp.expected ({columns})
            select conformed.{natural},
                coalesce(member.{key}, lost.key, nextval(pg_get_serial_sequence({sequence}, {key_name}))),
                {attributes}, false, false
            from {conformed} as conformed
            left join {target} as member
                on member.{natural} = conformed.{natural} and member.source_system = conformed.source_system
            left join pg_temp.lost_key as lost on lost.natural_id = conformed.{natural};
            insert into pg_temp.expected ({columns})
            select member.{natural}, member.{key}, {member_attributes}, member.is_inferred,
                member.is_deleted or not member.is_inferred and waiting.row_key is null
            from {target} as member
            left join {waiting} as waiting on waiting.row_key = array[member.{natural}]
            where member.source_system = {source}
                and not exists (select from {conformed} as conformed where conformed.{natural} = member.{natural})
                and (
                    member.is_inferred or member.is_deleted or waiting.row_key is not null
                    or exists (select from {mirror} as mirror where {mirror_key} = member.{natural})
                );
            """,
        **names,
    )
    comparison = Comparison(
        "star",
        batch.source,
        "dwh",
        dimension.table,
        EXPECTED,
        dimension.natural_key,
        columns,
        batch.format("found.source_system = {source}"),
        {"source_system": sql.Literal(batch.source), "run_id": sql.Literal(batch.run_id)},
    )
    return reconcile_table(batch.connection, comparison).timed(started)
