"""Reconform: conform all rows of targets whose definition has changed, and of all targets in a requested full refresh.

Rows that differ were not changed in the source, so facts and current versions are corrected in place. Targets with a
changed definition are reconformed before the run merges its changes, from the mirrors of the last run: then only real
changes open versions. Their deletes are deferred until after the merge, since the new definition may return a key from
this run's mirrors that it did not return from the last run's. A full refresh may repair mirrors, so it comes last.
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
    """Return the batches of targets whose definition has changed, and those of other targets in a full refresh.

    Dimensions come before facts. A target has no batch if its mirror does not exist, or is empty because its first load
    was undone: the run that fills the mirror loads it.
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
                # The time as of which the mirror shows the source.
                taken_at=watermark.captured_at
                if watermark and batches is changed
                else staged.snapshot.taken_at,
                # Rows of the star may be from another table, which the old definition read.
                may_have_orphans=True,
                reconform_reason=reason,
                is_before_merge=batches is changed,
                new_columns=new_columns,
            )
        )
    return changed, refreshed


def find_deferred(stale: Sequence[Batch], rows_held: Mapping[str, int]) -> Mapping[str, DeferredDeletes]:
    """Return the deletes that `stale` batches have deferred, by entity; `rows_held` are the live rows before them."""
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
