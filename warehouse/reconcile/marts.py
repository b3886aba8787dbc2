"""Reconcile stored marts: compare their rows with what their query returns now."""

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.load.marts import refresh_stored
from warehouse.model.mart import Mart, stored_marts
from warehouse.reconcile.compare import EXPECTED, Comparison, compare, list_differences
from warehouse.reconcile.verdict import Verdict

SOURCE = "marts"


def reconcile_marts(connection: psycopg.Connection, *, repair: bool) -> list[Verdict]:
    """Compare all stored marts; with `repair`, recompute all of them if any differs, in the connection's transaction.

    A mart that differs because it was refreshed before the last load of the star is stale, not wrong: its rows are not
    listed as differences.
    """
    verdicts = [_compare(connection, mart) for mart in stored_marts()]
    if repair and any(verdict.rows_differing for verdict in verdicts):
        refresh_stored(connection, 0, full_refresh=True)
    return verdicts


def _compare(connection: psycopg.Connection, mart: Mart) -> Verdict:
    started = time.monotonic()
    table = mart.table()
    columns = tuple(column.name for column in table.columns if column.name not in mart.key)
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.expected; create temp table expected on commit drop as {}"
        ).format(sql.SQL(mart.query()))
    )
    comparison = Comparison("mart", SOURCE, "mart", mart.name, EXPECTED, mart.key, columns, sql.SQL("true"))
    verdict = compare(connection, comparison)
    if verdict.rows_differing:
        if _is_stale(connection, comparison.name, mart):
            return replace(verdict, is_stale=True).timed(started)
        verdict = replace(verdict, differences=list_differences(connection, comparison))
    return verdict.timed(started)


def _is_stale(connection: psycopg.Connection, table: str, mart: Mart) -> bool:
    """Return whether the star was loaded since the mart, or a new day began and the mart depends on the current day."""
    row = connection.execute(
        """
        select
            coalesce(max(loaded_at) filter (where table_name like 'dwh.%%'), '-infinity')
            > coalesce(max(loaded_at) filter (where table_name = %(table)s), '-infinity')
            or %(is_daily)s and mart.local_date(
                (select refreshed_at from audit.mart_state where mart_name = %(mart)s)
            ) < mart.local_date(now())
        from audit.load
        """,
        {"table": table, "mart": mart.name, "is_daily": mart.kind == "daily"},
    ).fetchone()
    return bool(row and row[0])
