"""Surrogate keys that facts still name and no dimension holds: a member that is put back gets its own again."""

import psycopg
from psycopg import sql

from warehouse.load.conform import batch_table
from warehouse.model.star import FACTS, Dimension, Fact
from warehouse.sources.declaration import Entity


def find_lost_keys(connection: psycopg.Connection, entity: Entity, dimension: Dimension) -> None:
    """Fill pg_temp.lost_key with (natural_id, key), by the lines that name the member and the facts made of them.

    A key that facts of several members name, or a member with several such keys, tells nothing.
    """
    (natural,) = dimension.natural_key
    found: list[sql.Composable] = []
    for fact in FACTS:
        if dimension.entity in fact.references:
            found.append(_named_by(entity, dimension, fact, sql.Identifier("line", natural)))
        if through := fact.derived.get(dimension.entity):
            via = sql.SQL("(select via.{} from {} as via where via.{key} = fact.{key})").format(
                sql.Identifier(natural),
                sql.Identifier("dwh", f"dim_{through}"),
                key=sql.Identifier(f"{through}_key"),
            )
            found.append(_named_by(entity, dimension, fact, via))
    nothing = sql.SQL("select null::text as natural_id, null::bigint as key where false")
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.lost_key;
            create temp table lost_key on commit drop as
            select min(natural_id) as natural_id, key from ({named}) as named
            where natural_id is not null group by key having count(distinct natural_id) = 1;
            delete from pg_temp.lost_key as lost
            where exists (
                select from pg_temp.lost_key as other
                where other.natural_id = lost.natural_id and other.key <> lost.key
            );
            analyze pg_temp.lost_key;
            """
        ).format(named=sql.SQL(" union all ").join(found or [nothing]))
    )


def _named_by(entity: Entity, dimension: Dimension, fact: Fact, natural: sql.Composable) -> sql.Composable:
    return sql.SQL(
        """
        select {natural}::text as natural_id, fact.{key} as key
        from (
            -- few or none: not to be joined with the lines before they are found
            select fact.* from {fact} as fact
            where fact.source_system = {source} and fact.{key} > 0
                and not exists (select from {dimension} as known where known.{key} = fact.{key})
            offset 0
        ) as fact
        inner join {batch} as line on line.source_system = fact.source_system and {same}
        """
    ).format(
        natural=natural,
        key=sql.Identifier(dimension.key),
        fact=sql.Identifier("dwh", fact.table),
        batch=batch_table(fact.entity),
        dimension=sql.Identifier("dwh", dimension.table),
        source=sql.Literal(entity.source),
        same=sql.SQL(" and ").join(
            sql.SQL("line.{0} = fact.{0}").format(sql.Identifier(name)) for name in fact.natural_key
        ),
    )
