"""Quarantine: rows of a batch that break a row rule are moved aside whole, and come back when they pass."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.load.conform import batch_table
from warehouse.model.contracts import RowRule
from warehouse.model.star import Dimension, Fact


def move_failing(
    connection: psycopg.Connection,
    run_id: int,
    source: str,
    target: Dimension | Fact,
    rules: Sequence[RowRule],
) -> int:
    """Move the rows of the batch that break a rule to audit.quarantine; how many were not waiting there already.

    A row that was judged again and is as bad as before keeps its entry; one that is bad in another way replaces it.
    """
    connection.execute("drop table if exists pg_temp.failing")
    if not rules:
        connection.execute(
            "create temp table failing (row_key text[], rules text[], row_data jsonb) on commit drop"
        )
        return 0
    breaks = {rule.name: sql.SQL("({}) is true").format(sql.SQL(rule.broken_if)) for rule in rules}
    names = {
        "batch": batch_table(target.entity),
        "any_broken": sql.SQL(" or ").join(breaks.values()),
        "broken": sql.SQL("array_remove(array[{}], null)").format(
            sql.SQL(", ").join(
                sql.SQL("case when {} then {} end").format(condition, sql.Literal(name))
                for name, condition in breaks.items()
            )
        ),
        "key": sql.SQL(", ").join(map(sql.Identifier, target.natural_key)),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
        "entity": sql.Literal(target.entity),
    }
    connection.execute(
        sql.SQL(
            """
            create temp table failing on commit drop as
            select batch.ctid as place, array[{key}]::text[] as row_key, {broken} as rules, to_jsonb(batch) as row_data
            from {batch} as batch where {any_broken};
            delete from {batch} as batch using pg_temp.failing as failing where batch.ctid = failing.place;
            """
        ).format(**names)
    )
    moved = connection.execute(
        sql.SQL(
            """
            insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data)
            select {run_id}, {source}, {entity}, failing.row_key, failing.rules,
                array_to_string(failing.rules, '; '), failing.row_data
            from pg_temp.failing as failing
            left join audit.quarantine as waiting
                on waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                and waiting.row_key = failing.row_key and waiting.rules = failing.rules
                and waiting.row_data = failing.row_data
            where waiting.quarantine_id is null
            """
        ).format(**names)
    )
    return moved.rowcount


def resolve(
    connection: psycopg.Connection, run_id: int, source: str, target: Dimension | Fact
) -> Mapping[str, int]:
    """Resolve older entries of keys that this run has judged again; how many, by resolution.

    Call it after the failing rows have moved: a key in the batch passes now, one that failed again has a new entry,
    and one in pg_temp.removed is gone.
    """
    rows = connection.execute(
        sql.SQL(
            """
            with judged as (
                select array[{key}]::text[] as row_key, 'released' as resolution from {batch}
                union all
                select array[{key}]::text[], 'deleted' from pg_temp.removed
                union all
                select row_key, 'replaced' from audit.quarantine
                where run_id = {run_id} and source = {source} and entity = {entity}
            ),

            resolved as (
                update audit.quarantine as waiting
                set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = judged.resolution
                from judged
                where waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                    and waiting.row_key = judged.row_key and waiting.run_id <> {run_id}
                returning judged.resolution
            )

            select resolution, count(*) from resolved group by resolution
            """
        ).format(
            key=sql.SQL(", ").join(map(sql.Identifier, target.natural_key)),
            batch=batch_table(target.entity),
            run_id=sql.Literal(run_id),
            source=sql.Literal(source),
            entity=sql.Literal(target.entity),
        )
    ).fetchall()
    return dict(rows)


def any_waiting(connection: psycopg.Connection, source: str, entity: str) -> bool:
    """Whether rows of this entity wait in quarantine to be judged again."""
    row = connection.execute(
        """
        select exists (
            select from audit.quarantine
            where source = %s and entity = %s and resolved_at is null and row_key is not null
        )
        """,
        [source, entity],
    ).fetchone()
    return bool(row and row[0])
