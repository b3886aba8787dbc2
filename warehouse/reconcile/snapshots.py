"""Reconcile daily snapshots: the last day's rows with the mirror, earlier days' keys with the versions valid then."""

import time
from collections.abc import Iterator

from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.load.batch import Batch
from warehouse.load.daily_snapshot import fill_lines, infer_missing, line_columns
from warehouse.model.fact_sql import snapshot_columns, snapshot_query
from warehouse.model.star import DailySnapshot
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table
from warehouse.reconcile.facts import inferred_members
from warehouse.reconcile.verdict import Verdict


def reconcile_snapshot(batch: Batch, snapshot: DailySnapshot) -> Iterator[Verdict]:
    """Repair a daily snapshot, after inserting the inferred members that it needs; yields a verdict per table.

    Mirrors have only current values: measures of earlier days, and of quarantined rows, are not compared.
    """
    started = time.monotonic()
    fill_lines(
        batch,
        snapshot,
        batch.format(
            """
            with day as (
                select greatest(
                    (
                        select mart.local_date(max(captured_at)) from audit.watermark
                        where source = {source} and table_name = {table_name}
                    ),
                    (select max(snapshot_date) from {target} where source_system = {source})
                ) as last_day
            )

            select {conformed_columns}, day.last_day as snapshot_date, false as is_carried_forward, 1 as rank
            from {conformed} as conformed cross join day
            union all
            select {fact_columns}, fact.snapshot_date, fact.is_carried_forward, 2
            from {target} as fact cross join day
            where fact.source_system = {source} and (
                fact.snapshot_date < day.last_day
                or array[{natural_key}]::text[] in (select row_key from {waiting})
            )
            """,
            conformed_columns=qualified("conformed", line_columns(snapshot)),
            fact_columns=qualified("fact", line_columns(snapshot)),
            table_name=sql.Literal(batch.entity.table.name),
            waiting=waiting_table(snapshot.entity),
        ),
    )
    yield from inferred_members(batch, infer_missing(batch, snapshot))
    columns = snapshot_columns(snapshot)
    batch.execute(
        """
        drop table if exists pg_temp.expected;
        create temp table expected on commit drop as select {columns} from {target} limit 0;
        insert into pg_temp.expected ({columns}) select {columns} from ({query}) as prepared;
        """,
        columns=listed(columns),
        query=snapshot_query(snapshot, sql.SQL("table pg_temp.snapshot_lines")),
    )
    key = ("snapshot_date", *snapshot.natural_key, "source_system")
    comparison = Comparison(
        "star",
        batch.source,
        "dwh",
        snapshot.table,
        EXPECTED,
        key,
        tuple(name for name in columns if name not in key),
        batch.format("found.source_system = {source}"),
        {"run_id": sql.Literal(batch.run_id)},
    )
    yield reconcile_table(batch.connection, comparison).timed(started)
