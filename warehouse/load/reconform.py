"""Conform targets again as a whole: those whose definition is another one now, and all in a requested full refresh.

What differs was not changed in the world, so facts and present versions are corrected in place. Where the definition
changed, that happens before a run goes on with what changed, while the mirrors are still those of the last run: a
version is opened only by what the run merges afterwards. Deletes wait for that, too: what the new definition does not
make of the last run's mirrors it may make of this run's. A full refresh may repair mirrors, so it happens afterwards.
"""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.extract.catalog import mirror_exists
from warehouse.extract.staged import Staged
from warehouse.extract.watermark import read_watermark
from warehouse.load.batch import Batch, DeferredDeletes
from warehouse.model.star import TARGETS
from warehouse.runs.definitions import Definitions, find_stale
from warehouse.sources.source import Table


def reconform_batches(
    connection: psycopg.Connection, run_id: int, staged: Staged, definitions: Definitions
) -> tuple[list[Batch], list[Batch]]:
    """One batch for each target whose definition has changed, and for each other of a full refresh, dimensions first.

    A target whose mirror is not there yet, or empty since its first read was undone, has no batch: the run that fills
    the mirror loads it.
    """
    stale = {one.entity: one for one in find_stale(connection, definitions)}
    changed: list[Batch] = []
    refreshed: list[Batch] = []
    for target in TARGETS:
        entity, found = staged.source.entities.get(target.entity), stale.get(target.entity)
        if entity is None or not (found or staged.is_refresh_requested):
            continue
        if not mirror_exists(connection, entity.table):
            continue
        watermark = read_watermark(connection, entity.table)
        if watermark is None and _is_empty(connection, entity.table):
            continue
        if found:
            batches, reason, new_columns = changed, found.reason, found.new_columns
        else:
            batches, reason, new_columns = refreshed, "full refresh", ()
        batches.append(
            Batch(
                connection,
                run_id,
                entity,
                target,
                # The moment that the mirror shows.
                taken_at=watermark.captured_at
                if watermark and batches is changed
                else staged.snapshot.taken_at,
                # Also rows that another table of the source was declared for.
                may_have_orphans=True,
                reconform_reason=reason,
                is_before_merge=batches is changed,
                new_columns=new_columns,
            )
        )
    return changed, refreshed


def find_deferred(stale: Sequence[Batch], rows_held: Mapping[str, int]) -> Mapping[str, DeferredDeletes]:
    """By entity, the deletes that batches of changed definitions have deferred; of `rows_held` rows before."""
    return {
        batch.entity.name: DeferredDeletes(batch.reconform_reason or "", rows_held[batch.entity.name])
        for batch in stale
        if batch.exists("select from {deferred_keys}")
    }


def _is_empty(connection: psycopg.Connection, table: Table) -> bool:
    row = connection.execute(
        sql.SQL("select not exists (select from {})").format(sql.Identifier("raw", table.mirror))
    ).fetchone()
    return bool(row and row[0])
