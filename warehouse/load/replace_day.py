"""Backfill: replace the facts of a UTC day by what the conform SQL makes of the mirrors."""

import time
from dataclasses import replace
from datetime import date

import psycopg
from psycopg import sql

from warehouse.errors import SourceError
from warehouse.extract.catalog import mirror_exists, mirrored_columns
from warehouse.load import quarantine
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import create_all_keys_view, create_changed_keys
from warehouse.load.conform import conform, delivered_values, find_deleted_keys
from warehouse.load.fit import UNFIT
from warehouse.load.judge import Judge
from warehouse.load.natural_keys import natural_array, source_values
from warehouse.load.reads import conform_query
from warehouse.load.records import Records, apply_changes
from warehouse.load.target import Move, load_keys, merge_passing, to_load
from warehouse.load.transaction import begin_publishing
from warehouse.model.star import FACTS, Fact
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.sources.source import Source


def rederive(run: Run, source: Source, day: date) -> tuple[Load, ...]:
    """Replace the facts of a UTC day, in one transaction; doing it again changes nothing.

    Every row whose event is on that day, in the mirrors or in the star, is conformed, checked and merged: facts without
    a source row are deleted, and those whose event is on another day now are moved there. A record of a feed that fails
    is removed from mirrors and star as a whole.

    Raises:
        SourceError: the source has not been captured yet.
        QualityGateStopped: a contract's dataset rule failed; nothing was changed.
    """
    loads = []
    with run.connect(str(day)) as connection:
        begin_publishing(connection, run)
        has_records = source.feed is not None and mirror_exists(connection, source.record)
        records = Records.held(connection, run, source) if has_records else None
        move: Move = records.rejected.reject if records is not None else quarantine.move_failing
        for fact in FACTS:
            if entity := source.entities.get(fact.entity):
                with Batch(connection, run.run_id, entity, fact) as batch:
                    loads.append(_replace(batch, run, fact, day, move))
                record_load(connection, run.run_id, loads[-1])
        if records is not None:
            for batch, keys in records.rejected.withdrawn():
                with batch:
                    load = load_keys(batch, [keys], Judge(run), batch.entity.contract(), [], move)
                if load is not None:
                    record_load(connection, run.run_id, load)
                    loads.append(load)
            apply_changes(connection, run.run_id)
        ensure_alive(run)
    return tuple(loads)


def _replace(batch: Batch, run: Run, fact: Fact, day: date, move: Move) -> Load:
    started = time.monotonic()
    read = _find_keys_of_day(batch, fact, day)
    conformed = conform(batch).rows
    find_deleted_keys(batch)
    counts, moved = merge_passing(
        batch, Judge(run), batch.entity.contract(), [], conformed, move, every_key=True
    )
    load = to_load(batch, counts, read, conformed, moved, started)
    return replace(load, window_low=str(day), window_high=str(day))


def _find_keys_of_day(batch: Batch, fact: Fact, day: date) -> int:
    """Fill the changed keys with those whose event is on the day, in mirrors or star; returns their number."""
    types = _key_types(batch.connection, batch)
    keys, _ = source_values(batch.entity, [*map(sql.Identifier, fact.natural_key)], types)
    # Only the conform SQL returns the event time, so it is run for all rows of the mirror, except for those in
    # quarantine that it cannot convert.
    convertible = batch.format(
        "{key} not in (select row_key from audit.quarantine where source = {source} and entity = {entity} "
        "and resolved_at is null and row_key is not null and starts_with(rules[1], {unfit}))",
        key=natural_array(batch.entity, batch.entity.table.mirror),
        unfit=sql.Literal(UNFIT),
    )
    create_all_keys_view(batch, where=convertible)
    batch.create_temporary(
        "day_keys",
        """
        select {key} from ({query}) as conformed
        where {moment} >= {start} and {moment} < {start} + interval '1 day'
        union
        select {key} from {target} as fact
        where fact.{event} >= {start} and fact.{event} < {start} + interval '1 day' and fact.source_system = {source}
        """,
        key=keys,
        query=conform_query(batch.entity),
        event=sql.Identifier(fact.event_time),
        moment=delivered_values(batch)[fact.event_time],
        start=sql.SQL("{}::timestamp at time zone 'UTC'").format(sql.Literal(str(day))),
    )
    batch.execute("drop view {changed_keys}")
    return create_changed_keys(
        batch,
        "select {source_key}, false as _has_updated_at, false as _is_new, false as _is_outdated from pg_temp.day_keys",
    )


def _key_types(connection: psycopg.Connection, batch: Batch) -> dict[str, str]:
    types = mirrored_columns(connection, batch.entity.table)
    if not types:
        raise SourceError(
            f"Source '{batch.source}' has not been captured yet: raw.{batch.entity.table.mirror} does not exist.",
            hint=f"Run `dwh run {batch.source}` first.",
        )
    return types
