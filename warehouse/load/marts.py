"""Refresh the stored marts (materialized views), concurrently with their readers where possible."""

import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.runs.audit import Load, Run, record_load
from warehouse.runs.freshness import read_clock, record_complete


def refresh(run: Run) -> tuple[Load, ...]:
    """Refresh the materialized views of schema mart, each in one transaction with its load row."""
    with run.session("refresh") as connection:
        loads, complete_at = [], read_clock(connection)
        run.commit(connection)
        for name, concurrently in stored_marts(connection):
            loads.append(_refresh(connection, name, concurrently))
            record_load(connection, run.run_id, loads[-1])
            run.commit(connection)
        record_complete(connection, run.run_id, "mart", complete_at)
        run.commit(connection)
    return tuple(loads)


def read(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """Read all rows of a mart, in its own order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.SQL("select * from {}").format(sql.Identifier("mart", name))).fetchall()


def stored_marts(connection: psycopg.Connection) -> list[tuple[str, bool]]:
    """List materialized views in order of dependence, and whether they can be refreshed concurrently."""
    return connection.execute(
        """
        select
            mart.relname,
            mart.relispopulated and exists (
                select from pg_index as key
                where key.indrelid = mart.oid and key.indisunique and key.indisvalid
                    and key.indpred is null and key.indexprs is null
            )
        from pg_class as mart
        where mart.relnamespace = 'mart'::regnamespace and mart.relkind = 'm'
        order by mart.oid
        """
    ).fetchall()


def refresh_mart(connection: psycopg.Connection, name: str, *, concurrently: bool) -> None:
    """Refresh a materialized view; with `concurrently`, readers see the old state until the commit."""
    how = sql.SQL("concurrently " if concurrently else "")
    connection.execute(sql.SQL("refresh materialized view {}{}").format(how, sql.Identifier("mart", name)))


def _refresh(connection: psycopg.Connection, name: str, concurrently: bool) -> Load:
    started = time.monotonic()
    mart = sql.Identifier("mart", name)
    refresh_mart(connection, name, concurrently=concurrently)
    row = connection.execute(sql.SQL("select count(*) from {}").format(mart)).fetchone()
    assert row is not None
    return Load("mart", f"mart.{name}", rows_read=row[0], seconds=round(time.monotonic() - started, 3))
