"""Reconcile the quarantine of an entity: its entries, and the marks of star rows whose newer state is in quarantine."""

import time
from dataclasses import replace

from psycopg import sql

from warehouse.db.identifiers import text_array
from warehouse.load.batch import Batch
from warehouse.load.facts import isolate_unfit
from warehouse.load.fit import UNFIT
from warehouse.load.quarantine import (
    NOT_ITS_OWN,
    WRONG_MARKS,
    add_isolated,
    find_failing,
    mark_rows,
    take_failing,
)
from warehouse.model.star import Fact
from warehouse.model.tables import HAS_QUARANTINED_UPDATE
from warehouse.reconcile.compare import EXPECTED, Comparison, compare, list_differences
from warehouse.reconcile.verdict import MOST_LISTED, Difference, Verdict


def waiting_table(entity: str) -> sql.Identifier:
    """Temporary table of the keys (row_key) of an entity that belong in quarantine."""
    return sql.Identifier("pg_temp", f"waiting_{entity}")


def reconcile_quarantine(batch: Batch) -> Verdict:
    """Repair the quarantine entries of an entity, and remove the rows that belong in quarantine from its batch."""
    started = time.monotonic()
    find_failing(batch, batch.entity.contract().row_rules)
    take_failing(batch)
    if isinstance(batch.target, Fact) and _has_unfit(batch):
        isolate_unfit(batch, batch.target)
        add_isolated(batch)
    batch.execute(
        """
        drop table if exists pg_temp.expected, pg_temp.entry, {waiting};
        analyze {failing_rows};
        create temp table expected on commit drop as
        select
            failing.row_key, failing.rules, failing.reason,
            failing.row_data - {not_its_own} as row_data, failing.row_data as whole_row
        from {failing_rows} as failing;
        create temp table {waiting_name} on commit drop as select row_key from pg_temp.expected;
        analyze {waiting};
        create temp table entry on commit drop as
        select quarantine_id, row_key, rules, row_data - {not_its_own} as row_data from audit.quarantine
        where source = {source} and entity = {entity} and resolved_at is null and row_key is not null;
        """,
        waiting=waiting_table(batch.entity.name),
        not_its_own=NOT_ITS_OWN,
        waiting_name=sql.Identifier(f"waiting_{batch.entity.name}"),
    )
    comparison = Comparison(
        "star",
        batch.source,
        "pg_temp",
        "entry",
        EXPECTED,
        ("row_key",),
        ("rules", "row_data"),
        sql.SQL("true"),
        shown_as=f"audit.quarantine ({batch.entity.name})",
    )
    verdict = compare(batch.connection, comparison)
    if verdict.rows_differing:
        verdict = replace(verdict, differences=list_differences(batch.connection, comparison))
        _repair(batch)
    return verdict.timed(started)


def reconcile_marks(batch: Batch) -> Verdict:
    """Repair the marks of star rows whose newer state is in quarantine; call it after all other repairs."""
    started = time.monotonic()
    table, key, mark = f"dwh.{batch.target.table}", batch.target.natural_key, HAS_QUARANTINED_UPDATE.name
    wrong = mark_rows(batch, every_entry=True)
    rows = batch.execute(
        "select row_key, {mark}::text, (not {mark})::text from {wrong_marks} order by row_key limit {limit}",
        mark=sql.Identifier(mark),
        wrong_marks=WRONG_MARKS,
        limit=sql.Literal(MOST_LISTED),
    ).fetchall()
    return Verdict(
        "star",
        batch.source,
        table,
        0,
        0,
        rows_differing=wrong,
        differences=[
            Difference(
                "star",
                batch.source,
                table,
                dict(zip(key, row_key, strict=True)),
                "changed",
                {mark: found},
                {mark: expected},
            )
            for row_key, expected, found in rows
        ],
    ).timed(started)


def _has_unfit(batch: Batch) -> bool:
    """Return whether rows are in quarantine because they do not fit: calculating their facts would fail again."""
    return batch.exists(
        "select from audit.quarantine where source = {source} and entity = {entity} and resolved_at is null "
        "and row_key is not null and starts_with(rules[1], {unfit})",
        unfit=sql.Literal(UNFIT),
    )


def _repair(batch: Batch) -> None:
    """Resolve the entries that should not exist, and insert the missing ones."""
    batch.execute(
        """
        update audit.quarantine as waiting
        set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = case
            when different.problem in ('changed', 'duplicated') then 'replaced'
            when exists (select from {conformed} as conformed where {key} = waiting.row_key) then 'released'
            else 'deleted'
        end
        from pg_temp.different as different
        inner join pg_temp.entry as entry on entry.ctid = different.place
        where waiting.quarantine_id = entry.quarantine_id;

        insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data, published_row)
        select {run_id}, {source}, {entity}, expected.row_key, expected.rules, expected.reason, expected.whole_row,
            waiting.published_row
        from pg_temp.different as different
        inner join pg_temp.expected as expected on expected.ctid = different.wanted
        left join pg_temp.entry as entry on entry.ctid = different.place
        left join audit.quarantine as waiting on waiting.quarantine_id = entry.quarantine_id;
        """,
        key=text_array(batch.target.natural_key, "conformed"),
    )
