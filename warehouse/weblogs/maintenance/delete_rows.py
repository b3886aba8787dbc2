"""Requests that are removed again, with all that they counted for: the aggregates are what is left of the rows."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.weblogs.maintenance.reclassify import drop_zeros
from warehouse.weblogs.maintenance.retention import GONE, subtract


def take_back(connection: psycopg.Connection, run_ids: Sequence[int]) -> int:
    """Remove the rows that these runs loaded, in the connection's transaction; how many.

    Nobody else may be loading. Dictionaries stay: other runs may have used what these have entered.
    """
    return remove(connection, sql.SQL("run_id = any({})").format(sql.Literal(list(run_ids))))


def remove(connection: psycopg.Connection, which: sql.Composable) -> int:
    """Remove the rows of dwh.fact_weblog that fulfil a condition; how many.

    Nobody else may change aggregates before the end of the connection's transaction.
    """
    connection.execute(
        """
        create temp table if not exists pair_gone (country text, device_key smallint, web_user_key integer)
        on commit drop;
        truncate staging.weblog_deleted, pg_temp.pair_gone
        """
    )
    removed = connection.execute(
        sql.SQL(
            """
            with deleted as (
                delete from dwh.fact_weblog where {which}
                returning requested_at, country, device_key, request_key, file_id, web_user_key
            ),

            pairs as (
                insert into pg_temp.pair_gone
                select distinct country, device_key, web_user_key from deleted where web_user_key > 0
            )

            insert into {gone} (requested_at, country, device_key, request_key, file_id)
            select requested_at, country, device_key, request_key, file_id from deleted
            """
        ).format(which=which, gone=GONE)
    ).rowcount
    if removed:
        subtract(connection, GONE)
        for name, key in (("country", "country"), ("device", "device_key")):
            connection.execute(_RECOUNT.format(name=name, key=key).encode())
        drop_zeros(connection)
    return removed


# Pairs of the removed rows: those that no row has any more go, the others were seen last on another day.
_RECOUNT = """
    with gone as (
        select distinct {key}, web_user_key from pg_temp.pair_gone
    ),

    left_over as (
        select weblog.{key}, weblog.web_user_key, max((weblog.requested_at at time zone 'UTC')::date) as last_seen_date
        from dwh.fact_weblog as weblog inner join gone using ({key}, web_user_key)
        group by weblog.{key}, weblog.web_user_key
    ),

    seen_before as (
        update dwh.agg_weblog_{name}_user as pair set last_seen_date = left_over.last_seen_date
        from left_over
        where pair.{key} = left_over.{key} and pair.web_user_key = left_over.web_user_key
    ),

    not_seen as (
        delete from dwh.agg_weblog_{name}_user as pair using gone
        where pair.{key} = gone.{key} and pair.web_user_key = gone.web_user_key
            and not exists (
                select from left_over
                where left_over.{key} = gone.{key} and left_over.web_user_key = gone.web_user_key
            )
        returning pair.{key}
    ),

    counted as (
        select {key}, count(*) as user_count from not_seen group by {key}
    )

    update dwh.agg_weblog_{name} as total set user_count = total.user_count - counted.user_count
    from counted where total.{key} = counted.{key}
"""
