"""Derive the attributes of stored texts of the web logs again, after traffic rules or ua-parser have changed.

The lookups are updated in place, and then what is copied from them: keys in the fact, only in requests whose key has
changed, and the aggregates.
"""

import time
from itertools import islice

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.db.identifiers import assigned, listed
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import LockHeld
from warehouse.model.weblog_aggregates import AGGREGATES
from warehouse.model.weblog_definition import define_lookups
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.runs.definitions import (
    check_reconform_limit,
    find_stale_lookups,
    read_definitions,
    record_definition,
)
from warehouse.weblogs.files.checkpoints import FEED, PUBLISHED
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.storage.aggregate_tables import recount
from warehouse.weblogs.storage.lookups import Lookups, TextDictionary
from warehouse.weblogs.storage.writer import copy_rows

DIFFERING = sql.Identifier("pg_temp", "described")
_CHUNK = 50_000
_LOCK_SECONDS = 1.0


def rederive_texts(run: Run, *, limit: int | None, wait_seconds: float) -> tuple[Load, ...]:
    """Derive the texts of all lookups whose definition has changed again, in one transaction, before a load.

    Raises:
        ReconformLimitExceeded: more texts than `limit` would be derived again.
        LockHeld: loads that use the former rules do not end within `wait_seconds`.
    """
    give_up_at = time.monotonic() + wait_seconds
    with connect(run.warehouse_url, application_name=f"dwh {run.flow}: texts of web logs") as connection:
        while read_definitions(connection, FEED) != define_lookups():
            stale = find_stale_lookups(connection)
            if limit is not None:
                check_reconform_limit(stale, limit)
            if not stale:
                # No text is stored yet: there is only the definition to record.
                record_definitions(connection, run.run_id)
                connection.commit()
                break
            connection.rollback()
            try:
                with session_lock(connection, FEED, wait_seconds=_LOCK_SECONDS):
                    loads = _rederive(connection, run.run_id)
                    ensure_alive(run)
                    connection.commit()
                    return loads
            except LockHeld:
                # Another load may have derived the texts meanwhile.
                connection.rollback()
                if time.monotonic() > give_up_at:
                    raise
    return ()


def dry_run_rederive(run: Run) -> tuple[Load, ...]:
    """Do what `rederive_texts` would do, in the open transaction of a dry run."""
    assert run.dry_run_connection is not None
    return _rederive(run.dry_run_connection, run.run_id)


def record_definitions(connection: psycopg.Connection, run_id: int) -> None:
    """Record the current definitions of all lookups."""
    for table, definition in define_lookups().items():
        record_definition(connection, run_id, FEED, table, definition)


def find_differing(connection: psycopg.Connection, dictionary: TextDictionary) -> int:
    """Fill pg_temp.described with the rows of texts whose attributes have changed; returns their number."""
    columns = (dictionary.key, *dictionary.derived)
    connection.execute(
        sql.SQL(
            "drop table if exists {differing}; create temp table described on commit drop as "
            "select {columns} from {table} limit 0"
        ).format(differing=DIFFERING, columns=listed(columns), table=dictionary.relation)
    )
    count = 0
    rows = dictionary.described_otherwise()
    while chunk := list(islice(rows, _CHUNK)):
        copy_rows(connection, DIFFERING, columns, chunk)
        count += len(chunk)
    connection.execute(sql.SQL("analyze {}").format(DIFFERING))
    return count


def update_lookup(connection: psycopg.Connection, dictionary: TextDictionary) -> None:
    """Update a lookup with the rows of pg_temp.described."""
    connection.execute(
        sql.SQL(
            "update {table} as text set {assigned} from {differing} as described where text.{key} = described.{key}"
        ).format(
            table=dictionary.relation,
            assigned=assigned(dictionary.derived, "described"),
            differing=DIFFERING,
            key=sql.Identifier(dictionary.key),
        )
    )


def update_fact(connection: psycopg.Connection) -> int:
    """Set the device and traffic source of requests to those of their texts; returns the number of changed rows."""
    return connection.execute(
        """
        update dwh.fact_weblog as weblog
        set device_key = agent.device_key,
            traffic_source_key = coalesce(nullif(request.traffic_source_key, 0), referer.traffic_source_key)
        from dwh.dim_request as request, dwh.dim_user_agent as agent, dwh.dim_referer as referer
        where weblog.request_key = request.request_key and weblog.user_agent_key = agent.user_agent_key
            and weblog.referer_key = referer.referer_key
            and row(weblog.device_key, weblog.traffic_source_key) is distinct from row(
                agent.device_key, coalesce(nullif(request.traffic_source_key, 0), referer.traffic_source_key)
            )
        """
    ).rowcount


def recount_texts(connection: psycopg.Connection) -> list[Load]:
    """Recount the aggregates that depend on texts (action, product, device); returns a load for each changed table."""
    loads = []
    for aggregate in AGGREGATES:
        if "country" not in aggregate.key or aggregate.key != tuple(aggregate.from_fact):
            loads += recount(connection, aggregate)
    return loads


def _rederive(connection: psycopg.Connection, run_id: int) -> tuple[Load, ...]:
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
    transaction_lock(connection, PUBLISHED)
    lookups = Lookups(connection, run_id, read_traffic_rules())
    reasons = {one.table_name: one for one in find_stale_lookups(connection)}
    loads = []
    for dictionary in lookups.described:
        if stale := reasons.get(dictionary.name):
            started = time.monotonic()
            differing = find_differing(connection, dictionary)
            update_lookup(connection, dictionary)
            loads.append(
                Load(
                    FEED,
                    dictionary.name,
                    rows_read=stale.rows,
                    rows_updated=differing,
                    rows_unchanged=stale.rows - differing,
                    seconds=round(time.monotonic() - started, 3),
                    reconform_reason=stale.reason,
                )
            )
    if any(load.rows_updated for load in loads):
        started = time.monotonic()
        if moved := update_fact(connection):
            seconds = round(time.monotonic() - started, 3)
            loads.append(Load(FEED, "dwh.fact_weblog", rows_updated=moved, seconds=seconds))
        loads += recount_texts(connection)
    record_definitions(connection, run_id)
    for load in loads:
        record_load(connection, run_id, load)
    return tuple(loads)
