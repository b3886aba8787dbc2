"""Find the days, months, products or customers of stored marts that changed, by change log and run ids of new rows."""

from typing import NamedTuple

import psycopg
from psycopg import sql

from warehouse.model.mart import FOLLOWED, MEMBERS, UNKNOWN, Mart


class Since(NamedTuple):
    """The newest load and the newest logged change that a mart already includes."""

    load_id: int
    change_id: int


def changed_values(connection: psycopg.Connection, mart: Mart, since: Since) -> list[str]:
    """Find the values of the mart's followed column whose details were added, changed or deleted since.

    Values also count as changed if an attribute that the mart shows was corrected in place in a dimension. They are
    returned as text, because Python's dates do not cover all dates that a source may hold.
    """
    assert mart.follows is not None and mart.details is not None
    table = _collect(connection, mart.details, since)
    value = FOLLOWED[mart.follows]
    if mart.by[mart.follows] == "text":
        value = f"coalesce({value}, '{mart.unknown.get(mart.follows, UNKNOWN)}')"
    query = sql.SQL("select distinct ({})::text from pg_temp.{} as changed").format(
        sql.SQL(value), sql.Identifier(table)
    )
    for dimension, column in mart.shown_attributes:
        key = f"{dimension.removeprefix('dim_')}_key"
        query = sql.SQL("{} union " + _OF_CORRECTED_MEMBERS).format(
            query,
            value=sql.SQL(value),
            key=sql.Identifier(key),
            key_name=sql.Literal(key),
            table=sql.Literal(f"dwh.{dimension}"),
            column=sql.Literal(column),
            change_id=sql.Literal(since.change_id),
        )
    if member := MEMBERS.get(mart.follows):
        # Details may refer to a version that an undo has deleted; only the change log still has its member.
        query = sql.SQL(
            "{} union select before ->> {} from audit.change_log "
            "where table_name = {} and operation = 'delete' and change_id > {}"
        ).format(query, sql.Literal(mart.follows), sql.Literal(member), sql.Literal(since.change_id))
    rows = connection.execute(query).fetchall()
    return [value for (value,) in rows]


def _collect(connection: psycopg.Connection, dataset: str, since: Since) -> str:
    """Fill a temporary table with the changed details, once per transaction; returns the table's name."""
    table = f"changed_{dataset}_{since.load_id}_{since.change_id}"
    if connection.execute("select to_regclass(%s)", [f"pg_temp.{table}"]).fetchone() == (None,):
        query = sql.SQL(_CHANGED[dataset]).format(
            load_id=sql.Literal(since.load_id), change_id=sql.Literal(since.change_id)
        )
        connection.execute(
            sql.SQL("create temp table {} on commit drop as {}").format(sql.Identifier(table), query)
        )
    return table


# Inserts are not in the change log: an inserted row has its run's id. Updates and deletes are logged with both images.
_SALES = """
    select line.ordered_at, line.product_key, line.customer_key
    from dwh.fact_order_item as line
    where line.run_id in (
        select load.run_id from audit.load as load
        where load.load_id > {load_id} and not exists (select from audit.batch where batch.run_id = load.run_id)
    )
    union
    -- What live has inserted names its batch, and is found by an index.
    select line.ordered_at, line.product_key, line.customer_key
    from dwh.fact_order_item as line
    where line.batch_id > (
        select coalesce(max(batch.batch_id), 0) from audit.batch as batch where batch.load_id <= {load_id}
    )
    union
    select
        (image.line ->> 'ordered_at')::timestamptz, (image.line ->> 'product_key')::bigint,
        (image.line ->> 'customer_key')::bigint
    from audit.change_log as change
    cross join lateral (values (change.before), (change.after)) as image (line)
    where change.table_name = 'dwh.fact_order_item' and change.change_id > {change_id} and image.line is not null
"""
# A new version of a member changes no mart: facts keep the version valid at their event.
_OF_CORRECTED_MEMBERS = """
    select ({value})::text
    from dwh.fact_order_item as changed
    where changed.{key} in (
        select (coalesce(change.before, change.after) ->> {key_name})::bigint
        from audit.change_log as change
        where change.table_name = {table} and change.change_id > {change_id}
            and (change.operation <> 'update' or {column} = any(change.changed_columns))
    )
"""
# Web-log requests are not in the change log, but loads and deletions maintain counts per quarter of an hour. A day has
# changed if a newer run has counted it, or if its counts differ from the mart's.
_WEBLOG = """
    select distinct mart.local_date(counted.quarter_hour_at) as request_date
    from dwh.agg_weblog_quarter_hour as counted
    where counted.run_id in (select load.run_id from audit.load as load where load.load_id > {load_id})
    union
    select coalesce(counted.request_date, shown.request_date)
    from (
        select
            mart.local_date(quarter.quarter_hour_at) as request_date,
            extract(hour from mart.local_time(quarter.quarter_hour_at))::integer as request_hour,
            quarter.action,
            sum(quarter.request_count) as interaction_count
        from dwh.agg_weblog_quarter_hour as quarter
        group by 1, 2, 3
        having sum(quarter.request_count) <> 0
    ) as counted
    full join (
        select hour.request_date, hour.request_hour, hour.action, sum(hour.interaction_count) as interaction_count
        from mart.interactions_by_hour as hour
        group by 1, 2, 3
    ) as shown using (request_date, request_hour, action)
    where counted.interaction_count is distinct from shown.interaction_count
"""
_CHANGED = {"sales": _SALES, "weblog": _WEBLOG}
