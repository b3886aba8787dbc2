"""Quarantine, accounted for: what is conformed is published, or waits here because it breaks a rule."""

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.load.conform import batch_table
from warehouse.model.contracts import read_contract
from warehouse.model.star import Dimension, Fact
from warehouse.reconcile.compare import Comparison, compare, list_differences
from warehouse.reconcile.verdict import Verdict
from warehouse.sources.declaration import Entity

EXPECTED = sql.Identifier("pg_temp", "expected")


def waiting_table(entity: str) -> sql.Identifier:
    """Table of the keys (row_key) of an entity that wait in quarantine, and rightly so."""
    return sql.Identifier("pg_temp", f"waiting_{entity}")


def reconcile_quarantine(
    connection: psycopg.Connection, run_id: int, entity: Entity, target: Dimension | Fact
) -> Verdict | None:
    """Mend the entries of an entity, and take what waits out of its batch; None where no rule judges it.

    A row waits rightly if it breaks a rule now and is not published, or has waited before. One that was published
    when its rules were kept stays: a row is judged when it changes, not when what is around it does.
    """
    started = time.monotonic()
    rules = read_contract(target.entity, entity.lacks).row_rules
    names = {
        "batch": batch_table(target.entity),
        "waiting": waiting_table(target.entity),
        "waiting_name": sql.Identifier(f"waiting_{target.entity}"),
        "key": sql.SQL("array[{}]::text[]").format(
            sql.SQL(", ").join(sql.Identifier("batch", name) for name in target.natural_key)
        ),
        "broken": sql.SQL("array_remove(array[{}]::text[], null)").format(
            sql.SQL(", ").join(
                sql.SQL("case when {} then {} end").format(sql.SQL(rule.broken_if), sql.Literal(rule.name))
                for rule in rules
            )
        ),
        "any_broken": sql.SQL(" or ").join(
            sql.SQL("({}) is true").format(sql.SQL(rule.broken_if)) for rule in rules
        )
        if rules
        else sql.SQL("false"),
        "source": sql.Literal(entity.source),
        "entity": sql.Literal(target.entity),
        "published": _is_published(target),
    }
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.failing, pg_temp.expected, {waiting};
            create temp table failing on commit drop as
            select batch.ctid as place, {key} as row_key, {broken} as rules,
                -- a row that is judged again without having changed has lost its stamp
                to_jsonb(batch) - 'changed_at' as row_data, exists (select from {published}) as is_published
            from {batch} as batch where {any_broken};
            analyze pg_temp.failing;
            create temp table expected on commit drop as
            select failing.row_key, failing.rules, failing.row_data, failing.place from pg_temp.failing as failing
            where not failing.is_published or exists (
                select from audit.quarantine as entry
                where entry.source = {source} and entry.entity = {entity} and entry.resolved_at is null
                    and entry.row_key = failing.row_key
            );
            delete from {batch} as batch using pg_temp.expected as expected where batch.ctid = expected.place;
            create temp table {waiting_name} on commit drop as select row_key from pg_temp.expected;
            analyze {waiting};
            drop table if exists pg_temp.entry;
            create temp table entry on commit drop as
            select quarantine_id, row_key, rules, row_data - 'changed_at' as row_data from audit.quarantine
            where source = {source} and entity = {entity} and resolved_at is null and row_key is not null;
            """
        ).format(**names)
    )
    comparison = Comparison(
        "star",
        entity.source,
        "pg_temp",
        "entry",
        EXPECTED,
        ("row_key",),
        ("rules", "row_data"),
        sql.SQL("true"),
        shown_as=f"audit.quarantine ({target.entity})",
    )
    verdict = compare(connection, comparison)
    if not rules and not verdict.rows_found:
        return None
    if verdict.rows_differing:
        verdict = replace(verdict, differences=list_differences(connection, comparison))
        _mend(connection, run_id, entity, target)
    return verdict.timed(started)


def _mend(connection: psycopg.Connection, run_id: int, entity: Entity, target: Dimension | Fact) -> None:
    """Resolve the entries that should not be there, and make those that should."""
    connection.execute(
        sql.SQL(
            """
            update audit.quarantine as waiting
            set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = case
                when different.problem in ('changed', 'duplicated') then 'replaced'
                when exists (select from {batch} as batch where {key} = waiting.row_key) then 'released'
                else 'deleted'
            end
            from pg_temp.different as different
            inner join pg_temp.entry as entry on entry.ctid = different.place
            where waiting.quarantine_id = entry.quarantine_id;

            insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data)
            select {run_id}, {source}, {entity}, expected.row_key, expected.rules,
                array_to_string(expected.rules, '; '), expected.row_data
            from pg_temp.different as different
            inner join pg_temp.expected as expected on expected.ctid = different.wanted;
            """
        ).format(
            batch=batch_table(target.entity),
            key=sql.SQL("array[{}]::text[]").format(
                sql.SQL(", ").join(sql.Identifier("batch", name) for name in target.natural_key)
            ),
            run_id=sql.Literal(run_id),
            source=sql.Literal(entity.source),
            entity=sql.Literal(target.entity),
        )
    )


def _is_published(target: Dimension | Fact) -> sql.Composable:
    """`table where …`, which finds a row that the star shows for a row of the batch."""
    shown = "true"
    if isinstance(target, Dimension):
        shown = (
            "shown.is_current and not shown.is_inferred"
            if target.has_history
            else ("not shown.is_inferred and not shown.is_deleted")
        )
    return sql.SQL("{} as shown where {} and {}").format(
        sql.Identifier("dwh", target.table),
        sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier("shown", name), sql.Identifier("batch", name))
            for name in (*target.natural_key, "source_system")
        ),
        sql.SQL(shown),
    )
