"""Quarantine, accounted for: what is conformed is published, or waits here because it breaks a rule."""

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.db.identifiers import qualified
from warehouse.load.conform import batch_table
from warehouse.load.fit import UNFIT
from warehouse.load.quarantine import find_failing
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
) -> Verdict:
    """Repair the entries of an entity, and take the rows that wait out of its batch.

    A row waits rightly if it breaks a rule now and is not published as it is, or has waited before; and if the star
    cannot hold it. One that was published when its rules were kept stays: a row is judged when it changes.
    """
    started = time.monotonic()
    find_failing(connection, target, read_contract(target.entity, entity.lacks).row_rules)
    names = {
        "batch": batch_table(target.entity),
        "waiting": waiting_table(target.entity),
        "waiting_name": sql.Identifier(f"waiting_{target.entity}"),
        "unfit": sql.Literal(UNFIT),
        "source": sql.Literal(entity.source),
        "entity": sql.Literal(target.entity),
        "published": _is_published(target),
    }
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.expected, {waiting};
            analyze pg_temp.failing;
            create temp table expected on commit drop as
            select
                failing.row_key, failing.rules, failing.reason, failing.place,
                -- a row that is judged again without having changed has lost its stamp
                failing.row_data - 'changed_at' as row_data
            from pg_temp.failing as failing
            where starts_with(failing.rules[1], {unfit})
                or not exists (
                    select from {batch} as batch inner join {published} where batch.ctid = failing.place
                )
                or exists (
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
            select {run_id}, {source}, {entity}, expected.row_key, expected.rules, expected.reason, expected.row_data
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
    """`table on …`, to be joined with the batch: the row that the star shows for it, of a member in the same state."""
    conditions: list[sql.Composable] = [
        sql.SQL("shown.{0} = batch.{0}").format(sql.Identifier(name))
        for name in (*target.natural_key, "source_system")
    ]
    if isinstance(target, Dimension):
        present = "shown.is_current" if target.has_history else "not shown.is_deleted"
        conditions += [
            sql.SQL("not shown.is_inferred"),
            sql.SQL(present),
            sql.SQL("row({}) is not distinct from row({})").format(
                qualified("shown", target.attributes), qualified("batch", target.attributes)
            ),
        ]
    return sql.SQL("{} as shown on {}").format(
        sql.Identifier("dwh", target.table), sql.SQL(" and ").join(conditions)
    )
