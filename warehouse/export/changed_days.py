"""Find the UTC days of a fact that have changed since the last export, by the rows' run ids and the change log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.export.parquet import Column
from warehouse.export.tables import ExportedTable
from warehouse.history.change_log import COMMITTED_UNTIL
from warehouse.model.weblog import FACT as WEBLOG


@dataclass(frozen=True)
class Reached:
    """The watermark of an export: its newest load, its newest logged change, its time, and the time until which all
    loads and changes were committed that it could read."""

    load_id: int
    change_id: int
    read_at: datetime
    committed_until: str


@dataclass(frozen=True)
class DayRange:
    """Days of one month, as sorted texts, and the bounds of their event times."""

    days: Sequence[str]
    lower: str
    upper: str


def committed_until(connection: psycopg.Connection) -> str:
    """Return the time until which all loads and logged changes are committed; ask before the snapshot is taken.

    A later export reads again what is newer: a transaction that is open now may have lower ids than one that has ended.
    """
    row = connection.execute(
        "with log (name) as (values ('audit.load'), ('audit.change')) "
        f"select min(until)::text from ({COMMITTED_UNTIL}) as committed"
    ).fetchone()
    assert row is not None
    return str(row[0])


def reached(connection: psycopg.Connection, until: str) -> Reached:
    """Return the watermark of this transaction's snapshot; `until` is that of `committed_until`, asked before it."""
    row = connection.execute(
        """
        select
            (select coalesce(max(load_id), 0) from audit.load),
            (select coalesce(max(change_id), 0) from audit.change),
            transaction_timestamp()
        """
    ).fetchone()
    assert row is not None
    load_id, change_id, read_at = row
    return Reached(load_id, change_id, read_at, until)


def is_followed(connection: psycopg.Connection, since: Reached, now: Reached) -> bool:
    """Whether the change log is complete since then, and the warehouse was not restored to an earlier state."""
    if (since.load_id, since.change_id) > (now.load_id, now.change_id):
        return False
    pruned = "select from audit.run where pruned_at is not null and started_at >= %s limit 1"
    return connection.execute(pruned, [since.read_at]).rowcount == 0


def day_of(event: Column) -> sql.Composable:
    """Return SQL for a row's UTC day from its date or timestamp column; the row's alias is `dated`."""
    name = sql.Identifier("dated", event.name)
    return name if event.type == "date" else sql.SQL("({} at time zone 'UTC')::date").format(name)


def all_days(connection: psycopg.Connection, table: ExportedTable, day: sql.Composable) -> list[str]:
    """Return every day with rows in the table, as text: Python's dates have a smaller range than PostgreSQL's."""
    query = sql.SQL("select distinct ({})::text from {} as dated").format(day, table.identifier)
    return [one for (one,) in connection.execute(query).fetchall()]


def changed_days(
    connection: psycopg.Connection,
    table: ExportedTable,
    day: sql.Composable,
    since: Reached,
    exported_rows: Mapping[str, int],
) -> list[str]:
    """Return days whose rows were added, changed or deleted since; `exported_rows` are the files' row counts by day."""
    assert table.divided is not None
    parameters: dict[str, object] = {
        "load_id": since.load_id,
        "change_id": since.change_id,
        "until": since.committed_until,
    }
    query: sql.Composed | sql.SQL
    if table.divided.fact == WEBLOG.name:
        if connection.execute(_RECLASSIFIED, parameters).rowcount:
            return [*exported_rows, *all_days(connection, table, day)]
        query = sql.SQL(_WEBLOG)
        parameters |= {"days": list(exported_rows), "counts": list(exported_rows.values())}
    else:
        query = sql.SQL(_FACT).format(day=day, table=table.identifier)
        parameters |= {"table": table.relation}
    return [one for (one,) in connection.execute(query, parameters).fetchall()]


def by_month(connection: psycopg.Connection, days: Sequence[str]) -> list[DayRange]:
    """Group the days by month: one query reads each group by the index on the event time."""
    rows = connection.execute(_BY_MONTH, [list(days)]).fetchall()
    return [DayRange(*row) for row in rows]


_IS_NEW_LOAD = "(load.load_id > %(load_id)s or load.loaded_at >= %(until)s)"
# Inserts are not logged: they are found by the rows' run_id. Updates and deletes are logged with both row images.
_FACT = f"""
    select distinct ({{day}})::text from {{table}} as dated
    where dated.run_id in (select load.run_id from audit.load as load where {_IS_NEW_LOAD})
    union
    select distinct ({{day}})::text
    from audit.change_log as change
    cross join lateral (values (change.before), (change.after)) as image (line)
    cross join lateral jsonb_populate_record(null::{{table}}, image.line) as dated
    where change.table_name = %(table)s and image.line is not null
        and (change.change_id > %(change_id)s or change.changed_at >= %(until)s)
"""
# Web requests have no change log. A day has changed if its quarter-hour counts were written by a newer run, or if the
# files have another number of rows.
_WEBLOG = f"""
    with counted as (
        select
            (quarter.quarter_hour_at at time zone 'UTC')::date::text as day,
            sum(quarter.request_count) as row_count,
            bool_or(
                quarter.run_id in (select load.run_id from audit.load as load where {_IS_NEW_LOAD})
            ) as is_new
        from dwh.agg_weblog_quarter_hour as quarter
        group by 1
    )

    select day
    from counted
    full join unnest(%(days)s::text[], %(counts)s::bigint[]) as exported (day, row_count) using (day)
    where counted.is_new or coalesce(counted.row_count, 0) <> coalesce(exported.row_count, 0)
"""
_RECLASSIFIED = f"""
    select from audit.load inner join audit.run using (run_id)
    where {_IS_NEW_LOAD} and run.flow = 'reclassify-weblogs' and load.rows_updated > 0
    limit 1
"""
# PostgreSQL's timestamps end in the year 294276.
_BY_MONTH = """
    select
        array_agg(day::text order by day),
        min(day)::text,
        case when max(day) >= '294276-01-01' then 'infinity' else (max(day) + 1)::text end
    from (select distinct day::date as day from unnest(%s::text[]) as given (day)) as one
    group by date_trunc('month', day)
    order by 2
"""
