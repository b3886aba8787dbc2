"""Deletes requests from the fact and subtracts them from the aggregates."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.weblogs.storage.aggregate_tables import drop_zeros, recount_users, subtract

# The columns of rows being deleted that the aggregates need.
DELETED = sql.Identifier("staging", "weblog_deleted")


def delete_rows_of_runs(connection: psycopg.Connection, run_ids: Sequence[int]) -> int:
    """Delete the rows that these runs loaded, in the connection's transaction; returns their number.

    The caller holds the feed's lock. Dictionaries keep their texts: other runs may use them.
    """
    return delete_rows(connection, sql.SQL("run_id = any({})").format(sql.Literal(list(run_ids))))


def delete_rows(connection: psycopg.Connection, condition: sql.Composable) -> int:
    """Delete the rows of dwh.fact_weblog that fulfil a condition; returns their number.

    The caller holds a lock under which nobody else changes aggregates until the connection's transaction ends.
    """
    connection.execute(
        """
        create temp table if not exists deleted_user (country text, device_key smallint, web_user_key integer)
        on commit drop;
        truncate staging.weblog_deleted, pg_temp.deleted_user
        """
    )
    deleted = connection.execute(
        sql.SQL(
            """
            with deleted as (
                delete from dwh.fact_weblog where {condition}
                returning requested_at, country, device_key, request_key, file_id, web_user_key
            ),

            users as (
                insert into pg_temp.deleted_user
                select distinct country, device_key, web_user_key from deleted where web_user_key > 0
            )

            insert into {staged} (requested_at, country, device_key, request_key, file_id)
            select requested_at, country, device_key, request_key, file_id from deleted
            """
        ).format(condition=condition, staged=DELETED)
    ).rowcount
    if deleted:
        subtract(connection, DELETED)
        pairs = sql.SQL("select distinct {} from pg_temp.deleted_user")
        recount_users(connection, lambda users: pairs.format(listed(users.key)))
        drop_zeros(connection)
    return deleted
