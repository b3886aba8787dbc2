"""Stored marts: compare their rows with what their definition returns now."""

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.load.marts import refresh_mart, stored_marts
from warehouse.reconcile.compare import EXPECTED, Comparison, compare, list_differences
from warehouse.reconcile.verdict import Verdict

SOURCE = "marts"


def reconcile_marts(connection: psycopg.Connection) -> list[Verdict]:
    """Refresh the stored marts that differ, in the connection's transaction.

    A mart that was last refreshed before the star was last loaded may differ: it is stale, not wrong. One without a
    unique index has no key to compare by, and is left out.
    """
    return [
        _mart(connection, name, key)
        for name, _ in stored_marts(connection)
        if (key := _key(connection, name))
    ]


def _mart(connection: psycopg.Connection, name: str, key: tuple[str, ...]) -> Verdict:
    started = time.monotonic()
    row = connection.execute(
        "select pg_get_viewdef(format('mart.%%I', %s::text)::regclass)", [name]
    ).fetchone()
    assert row is not None
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.expected; create temp table expected on commit drop as {}"
        ).format(sql.SQL(row[0].strip().rstrip(";")))
    )
    described = connection.execute("select * from pg_temp.expected limit 0").description
    columns = tuple(column.name for column in described or () if column.name not in key)
    comparison = Comparison("mart", SOURCE, "mart", name, EXPECTED, key, columns, sql.SQL("true"))
    verdict = compare(connection, comparison)
    if verdict.rows_differing:
        verdict = replace(
            verdict,
            differences=list_differences(connection, comparison),
            is_stale=_is_stale(connection, comparison.name),
        )
        refresh_mart(connection, name, concurrently=True)
    return verdict.timed(started)


def _key(connection: psycopg.Connection, name: str) -> tuple[str, ...]:
    """Columns of a unique index of the mart, where it has one."""
    row = connection.execute(
        """
        select array(
            select attname::text from pg_attribute where attrelid = key.indrelid and attnum = any(key.indkey)
        )
        from pg_index as key
        where key.indrelid = format('mart.%%I', %s::text)::regclass and key.indisunique and key.indisvalid
            and key.indpred is null and key.indexprs is null
        order by key.indexrelid limit 1
        """,
        [name],
    ).fetchone()
    return tuple(row[0]) if row else ()


def _is_stale(connection: psycopg.Connection, name: str) -> bool:
    row = connection.execute(
        """
        select coalesce(max(loaded_at) filter (where table_name like 'dwh.%%'), '-infinity')
            > coalesce(max(loaded_at) filter (where table_name = %s), '-infinity')
        from audit.load
        """,
        [name],
    ).fetchone()
    return bool(row and row[0])
