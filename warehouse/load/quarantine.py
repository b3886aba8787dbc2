"""Quarantine: rows of a batch that break a row rule, or that the star cannot hold, wait there until they pass."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.load.conform import batch_table
from warehouse.load.conversion import unconvertible_table
from warehouse.load.fit import UNFIT, unfit_rules
from warehouse.model.contracts import RowRule
from warehouse.model.star import Dimension, Fact


def find_failing(
    connection: psycopg.Connection, target: Dimension | Fact, rules: Sequence[RowRule]
) -> Mapping[str, int]:
    """Fill pg_temp.failing with the rows of the batch that break a rule, do not fit or cannot be converted.

    Returns by rule how many rows do not fit or cannot be converted. Whether a row fits is asked only where it breaks
    none of `rules`.
    """
    unfit = unfit_rules(target)
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.failing;
            create temp table failing on commit drop as
            select
                judged.place, judged.row_key, judged.rules, array_to_string(judged.rules, '; ') as reason,
                judged.row_data
            from (
                select
                    batch.ctid as place,
                    {key} as row_key,
                    coalesce(nullif({broken}, '{{}}'), {unfit}) as rules,
                    to_jsonb(batch) as row_data
                from {batch} as batch where {any_broken}
            ) as judged
            union all
            select null, row_key, rules, reason, row_data from {unconvertible}
            """
        ).format(
            batch=batch_table(target.entity),
            unconvertible=unconvertible_table(target.entity),
            key=_row_key(target),
            broken=broken_rules(rules),
            unfit=broken_rules(unfit),
            any_broken=sql.SQL(" or ").join(
                sql.SQL("({}) is true").format(sql.SQL(rule.broken_if)) for rule in (*rules, *unfit)
            ),
        )
    )
    counts = connection.execute(
        """
        select rule, count(*) from pg_temp.failing cross join unnest(rules) as rule
        where starts_with(rule, %s) group by rule order by rule
        """,
        [UNFIT],
    ).fetchall()
    return dict(counts)


def broken_rules(rules: Sequence[RowRule]) -> sql.Composable:
    """Expression over a row of the batch: the names of the rules that it breaks, as an array."""
    return sql.SQL("array_remove(array[{}]::text[], null)").format(
        sql.SQL(", ").join(
            sql.SQL("case when {} then {} end").format(sql.SQL(rule.broken_if), sql.Literal(rule.name))
            for rule in rules
        )
    )


def move_failing(connection: psycopg.Connection, run_id: int, source: str, target: Dimension | Fact) -> int:
    """Move pg_temp.failing from the batch to audit.quarantine; returns how many were not waiting there already.

    A row that was judged again and is as bad as before keeps its entry; one that is bad in another way replaces it.
    """
    names = {
        "batch": batch_table(target.entity),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
        "entity": sql.Literal(target.entity),
    }
    connection.execute(
        sql.SQL(
            "delete from {batch} as batch using pg_temp.failing as failing where batch.ctid = failing.place"
        ).format(**names)
    )
    moved = connection.execute(
        sql.SQL(
            """
            insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data)
            select {run_id}, {source}, {entity}, failing.row_key, failing.rules, failing.reason, failing.row_data
            from pg_temp.failing as failing
            left join audit.quarantine as waiting
                on waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                and waiting.row_key = failing.row_key and waiting.rules = failing.rules
                -- a row that is judged again without having changed has lost its stamp
                and waiting.row_data - 'changed_at' = failing.row_data - 'changed_at'
            where waiting.quarantine_id is null
            """
        ).format(**names)
    )
    return moved.rowcount


def _row_key(target: Dimension | Fact) -> sql.Composable:
    return sql.SQL("array[{}]::text[]").format(
        sql.SQL(", ").join(sql.Identifier("batch", name) for name in target.natural_key)
    )


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


def is_waiting(connection: psycopg.Connection, source: str, entity: str, key: Sequence[str]) -> bool:
    """Whether the source's row with this key is in quarantine: the star shows an older state of it, or none."""
    row = connection.execute(
        """
        select exists (
            select from audit.quarantine
            where source = %s and entity = %s and resolved_at is null and row_key = %s
        )
        """,
        [source, entity, list(key)],
    ).fetchone()
    return bool(row and row[0])
