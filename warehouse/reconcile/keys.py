"""Find lost surrogate keys, which facts refer to and no dimension row has, to restore members with their own keys."""

from psycopg import sql

from warehouse.db.identifiers import same_key
from warehouse.load.batch import Batch, conformed_table
from warehouse.model.star import FACTS, Dimension, Fact


def find_lost_keys(batch: Batch, dimension: Dimension) -> None:
    """Fill pg_temp.lost_key with (natural_id, key), from facts and their conformed rows, which have the natural key.

    Keys that facts of several members have are skipped, and so are members with several lost keys.
    """
    (natural,) = dimension.natural_key
    queries: list[sql.Composable] = []
    for fact in FACTS:
        if dimension.entity in fact.references:
            queries.append(_named_by(batch, dimension, fact, sql.Identifier("line", natural)))
        if through := fact.derived.get(dimension.entity):
            via = sql.SQL(
                "coalesce(line.{natural}, (select via.{natural} from {} as via where via.{key} = fact.{key}))"
            ).format(
                sql.Identifier("dwh", f"dim_{through}"),
                natural=sql.Identifier(natural),
                key=sql.Identifier(f"{through}_key"),
            )
            queries.append(_named_by(batch, dimension, fact, via))
    nothing = sql.SQL("select null::text as natural_id, null::bigint as key where false")
    batch.connection.execute(
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
        ).format(named=sql.SQL(" union all ").join(queries or [nothing]))
    )


def _named_by(batch: Batch, dimension: Dimension, fact: Fact, natural: sql.Composable) -> sql.Composable:
    return batch.format(
        """
        select {natural}::text as natural_id, fact.{key} as key
        from (
            -- offset 0 makes the planner find these few facts before it joins them with the lines
            select fact.* from {fact} as fact
            where fact.source_system = {source} and fact.{key} > 0
                and not exists (select from {target} as member where member.{key} = fact.{key})
            offset 0
        ) as fact
        inner join {lines} as line on line.source_system = fact.source_system and {same}
        """,
        natural=natural,
        key=sql.Identifier(dimension.key),
        fact=sql.Identifier("dwh", fact.table),
        lines=conformed_table(fact.entity),
        same=same_key(fact.natural_key, "line", "fact"),
    )
