"""Changes to the web-log aggregates: add a staged batch, subtract rows, move them to other countries, recount users.

All in the caller's transaction. The SQL is generated from the declaration in warehouse.model.weblog_aggregates. Rows
are marked with the run of setting dwh.run_id.
"""

import time
from collections.abc import Callable
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from warehouse.db.identifiers import assigned, differ, listed, qualified, same_key
from warehouse.model.weblog_aggregates import (
    AGGREGATES,
    FACT,
    TABLES,
    Aggregate,
    AggregateTable,
    count_rows,
    count_rows_and_users,
    list_users,
)
from warehouse.runs.audit import Load

_BY_COUNTRY = tuple(aggregate for aggregate in AGGREGATES if "country" in aggregate.key)
_RUN_ID = sql.SQL("coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint")
# Requests that a re-classification moved: counted in their new country (change 1), and no longer in the old one (-1).
_MOVED = sql.SQL(
    """
    (
        select
            change.country, moved.web_user_key, moved.request_key, change.change,
            moved.request_date::timestamp at time zone 'UTC' as requested_at
        from staging.weblog_moved as moved
        cross join lateral (values (moved.new_country, 1), (moved.country, -1)) as change (country, change)
    )
    """
)
_ADD = """
    insert into {table} as counted ({key}, {measures}, run_id)
    select {key}, {staged_measures}, {run_id} from {staged} order by {key}
    on conflict ({key}) do update set {measure} = counted.{measure} + excluded.{measure}, run_id = excluded.run_id
"""
_ADD_USERS = """
    with users_seen as (
        insert into {users} as pair ({key}, web_user_key, last_seen_date, run_id)
        select {batch_key}, batch.web_user_key, batch.last_seen_date, {run_id}
        from {staged_users} as batch
        -- Most pairs were seen on that day before: these are not even locked.
        where not exists (
            select from {users} as pair
            where {same_pair} and coalesce(pair.last_seen_date, 'infinity') >= batch.last_seen_date
        )
        order by {batch_key}, batch.web_user_key
        on conflict ({key}, web_user_key) do update set last_seen_date = excluded.last_seen_date
            where pair.last_seen_date < excluded.last_seen_date
        -- A row that was inserted, not updated, has no xmax.
        returning {pair_key}, pair.xmax = 0 as is_new
    ),

    new_users as (select {key}, count(*) as user_count from users_seen where is_new group by {key})

    update {table} as counted set user_count = counted.user_count + new_users.user_count
    from new_users where {same_key}
"""
_RECOUNT_USERS = """
    with opened as ({opened}),

    seen as (
        select {weblog_key}, weblog.web_user_key, max((weblog.requested_at at time zone 'UTC')::date) as last_seen_date
        from {fact} as weblog inner join opened using ({key}, web_user_key)
        group by {weblog_key}, weblog.web_user_key
    ),

    seen_before as (
        update {users} as pair set last_seen_date = seen.last_seen_date
        from seen where {same_seen}
    ),

    not_seen as (
        delete from {users} as pair using opened
        where {same_opened} and not exists (select from seen where {same_seen})
        returning {pair_key}
    ),
"""
_EXPIRE_USERS = """
    with not_seen as (
        delete from {users} as pair where pair.last_seen_date < {cutoff} returning {pair_key}
    ),
"""
_SUBTRACT_USERS = """
    users_gone as (select {key}, count(*) as user_count from not_seen group by {key})

    update {table} as counted set user_count = counted.user_count - users_gone.user_count, run_id = {run_id}
    from users_gone where {same_gone}
"""


def clear_staged(connection: psycopg.Connection) -> None:
    """Empty the tables that a batch's counts are staged in."""
    tables = sql.SQL(", ").join(table.staged for table in TABLES)
    connection.execute(sql.SQL("truncate {}").format(tables))


def add_staged(connection: psycopg.Connection) -> None:
    """Add the staged batch to the aggregates."""
    for aggregate in AGGREGATES:
        _execute(connection, _ADD, aggregate)
        if aggregate.users:
            _execute(connection, _ADD_USERS, aggregate)


def subtract(connection: psycopg.Connection, rows: sql.Composable) -> None:
    """Subtract rows of the fact that are being removed; call `recount_users` or `expire_users` for their users."""
    clear_staged(connection)
    for aggregate in AGGREGATES:
        _stage(connection, aggregate, count_rows(aggregate, rows, sql.Literal(-1)))
    add_staged(connection)


def move_countries(connection: psycopg.Connection) -> None:
    """Move the counts of staging.weblog_moved to the new countries, and mark users of the old ones for a recount.

    A pair of key and user is marked by setting last_seen_date to null.
    """
    clear_staged(connection)
    for aggregate in _BY_COUNTRY:
        _stage(connection, aggregate, count_rows(aggregate, _MOVED, sql.SQL("weblog.change")))
        if aggregate.users:
            arrived = sql.SQL("(select * from {} as moved where change > 0)").format(_MOVED)
            _stage(connection, aggregate.users, list_users(aggregate, arrived))
    add_staged(connection)
    for aggregate in _BY_COUNTRY:
        if aggregate.users:
            left = sql.SQL("select distinct {} from staging.weblog_moved where web_user_key > 0")
            _execute(
                connection,
                "update {users} as pair set last_seen_date = null from ({opened}) as opened where {same_opened}",
                aggregate,
                opened=left.format(listed(aggregate.users.key)),
            )


def recount_users(
    connection: psycopg.Connection, pairs_of: Callable[[AggregateTable], sql.Composable] | None = None
) -> None:
    """Recount pairs of key and user by the fact: those without a row are deleted, the others get their last day.

    `pairs_of` selects the pairs of a table; by default those that `move_countries` has marked.
    """
    for aggregate in AGGREGATES if pairs_of else _BY_COUNTRY:
        if aggregate.users:
            pairs = (pairs_of or _opened)(aggregate.users)
            _execute(connection, _RECOUNT_USERS + _SUBTRACT_USERS, aggregate, opened=pairs)


def expire_users(connection: psycopg.Connection, cutoff: date) -> None:
    """Delete pairs of key and user that were last seen before a day."""
    for aggregate in AGGREGATES:
        if aggregate.users:
            _execute(connection, _EXPIRE_USERS + _SUBTRACT_USERS, aggregate, cutoff=sql.Literal(cutoff))


def recount(connection: psycopg.Connection, aggregate: Aggregate) -> list[Load]:
    """Recompute an aggregate and its pairs of key and user from the fact; returns a load for each changed table."""
    counted: list[tuple[AggregateTable, sql.Composable, tuple[str, ...]]] = [
        (aggregate, count_rows_and_users(aggregate), aggregate.measures)
    ]
    if aggregate.users:
        counted.append((aggregate.users, list_users(aggregate, FACT), (aggregate.users.measure,)))
    loads = []
    for table, query, measures in counted:
        started = time.monotonic()
        names = {
            "table": sql.Identifier("dwh", table.table),
            "query": query,
            "key": listed(table.key),
            "measures": listed(measures),
            "assigned": assigned(measures, "excluded"),
            "differ": differ(measures, "counted", "excluded"),
            "same": same_key(table.key, "counted", "recounted"),
            "run_id": _RUN_ID,
        }
        connection.execute(
            sql.SQL(
                "drop table if exists pg_temp.recounted; create temp table recounted on commit drop as {query}; "
                "analyze pg_temp.recounted"
            ).format(**names)
        )
        written = connection.execute(
            sql.SQL(
                """
                insert into {table} as counted ({key}, {measures}, run_id)
                select {key}, {measures}, {run_id} from pg_temp.recounted
                on conflict ({key}) do update set {assigned}, run_id = excluded.run_id where {differ}
                """
            ).format(**names)
        ).rowcount
        deleted = connection.execute(
            sql.SQL(
                "delete from {table} as counted "
                "where not exists (select from pg_temp.recounted as recounted where {same})"
            ).format(**names)
        ).rowcount
        if written or deleted:
            seconds = round(time.monotonic() - started, 3)
            loads.append(
                Load(
                    "weblogs",
                    f"dwh.{table.table}",
                    rows_updated=written,
                    rows_deleted=deleted,
                    seconds=seconds,
                )
            )
    return loads


def drop_zeros(connection: psycopg.Connection) -> None:
    """Delete rows that count 0."""
    for aggregate in AGGREGATES:
        is_zero = sql.SQL(" and ").join(
            sql.SQL("{} = 0").format(sql.Identifier(m)) for m in aggregate.measures
        )
        _execute(connection, "delete from {table} where {is_zero}", aggregate, is_zero=is_zero)


def _opened(users: AggregateTable) -> sql.Composable:
    return sql.SQL("select {} from {} where last_seen_date is null").format(
        listed(users.key), sql.Identifier("dwh", users.table)
    )


def _stage(connection: psycopg.Connection, table: AggregateTable, query: sql.Composable) -> None:
    connection.execute(sql.SQL("insert into {} {}").format(table.staged, query))


def _execute(
    connection: psycopg.Connection, statement: str, aggregate: Aggregate, **parts: sql.Composable
) -> psycopg.Cursor[Any]:
    if aggregate.users:
        parts |= {
            "users": sql.Identifier("dwh", aggregate.users.table),
            "staged_users": aggregate.users.staged,
            "same_pair": same_key(aggregate.users.key, "pair", "batch"),
            "same_seen": same_key(aggregate.users.key, "pair", "seen"),
            "same_opened": same_key(aggregate.users.key, "pair", "opened"),
        }
    key = aggregate.key
    return connection.execute(
        sql.SQL(statement).format(
            table=sql.Identifier("dwh", aggregate.table),
            staged=aggregate.staged,
            fact=FACT,
            key=listed(key),
            batch_key=qualified("batch", key),
            pair_key=qualified("pair", key),
            weblog_key=qualified("weblog", key),
            same_key=same_key(key, "counted", "new_users"),
            same_gone=same_key(key, "counted", "users_gone"),
            measure=sql.Identifier(aggregate.measure),
            measures=listed(aggregate.measures),
            staged_measures=sql.SQL("{}, 0" if aggregate.users else "{}").format(
                sql.Identifier(aggregate.measure)
            ),
            run_id=_RUN_ID,
            **parts,
        )
    )
