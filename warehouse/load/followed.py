"""Find keys to conform because a star table that the entity's SQL reads (`follows`) was changed by other sources' runs.

audit.followed has the last load of each table that the entity has followed; an undo of the run that wrote it resets it.
"""

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from warehouse.load.batch import Batch
from warehouse.load.joined_changes import FLAGS, follow
from warehouse.model.fact_sql import select_with_members
from warehouse.model.star import DIMENSIONS
from warehouse.sources.joins import paths
from warehouse.sources.source import Source

# Flows that correct star rows in place: neither run ids of rows nor counts in audit.load show all that they change.
CORRECTING: Final = ("undo", "reconcile")


class _Since(NamedTuple):
    """Runs that have published since a table was last followed, and whether the change log still has all of them."""

    runs: list[int]
    # Changes by hand have no run; they are found by time, beginning a day earlier, so some are followed twice.
    published_at: str
    is_complete: bool


def keys_of_followed_rows(batch: Batch) -> Iterator[sql.Composable]:
    """Select the keys that followed star rows lead to, for rows changed since, by their old and their new values."""
    entity = batch.entity
    for table in dict.fromkeys(join.table for join in entity.follows):
        since = _read_since(batch, table)
        if since is None or not since.is_complete:
            yield batch.format("select {source_key}, 0 from {mirror} where not _is_deleted")
            continue
        if not _collect(batch, table, since):
            continue
        rows = batch.format(
            "select followed.*, 0 as {flags} from {followed} as followed",
            flags=FLAGS,
            followed=sql.Identifier("pg_temp", f"followed_{table}"),
        )
        for path in paths((*entity.joins, *entity.follows), table, entity.table.name):
            yield follow(batch, table, path, rows)


def record_followed(connection: psycopg.Connection, run_id: int, source: Source) -> None:
    """Record that the entities of `source` have followed all loads so far, in the publishing transaction."""
    for entity in source.entities.values():
        for table in dict.fromkeys(join.table for join in entity.follows):
            connection.execute(
                """
                insert into audit.followed as known (source, entity, table_name, load_id, run_id)
                values (%s, %s, %s, (select coalesce(max(load_id), 0) from audit.load), %s)
                on conflict (source, entity, table_name) do update
                set load_id = excluded.load_id, run_id = excluded.run_id
                where known.load_id <> excluded.load_id
                """,
                [source.name, entity.name, f"dwh.{table}", run_id],
            )


def looked_until(batch: Batch) -> int:
    """Return the id of the newest load up to which the batch's source has followed other sources' changes.

    That is the source's own last load by its ingest or live flow that was not undone. Discards, backfills, reconciles
    and undos also record loads of the source, but do not follow other sources' changes.
    """
    row = batch.connection.execute(
        """
        select load.load_id from audit.load inner join audit.run using (run_id)
        where load.source = %(source)s and run.status <> 'undone' and (
            run.flow = 'live-' || %(source)s
            -- loads that this run has recorded before it publishes do not count either
            or run.flow = 'ingest-' || %(source)s and run.run_id <> %(run_id)s
        )
        order by load.load_id desc limit 1
        """,
        {"source": batch.source, "run_id": batch.run_id},
    ).fetchone()
    return int(row[0]) if row else 0


def are_corrected(batch: Batch, sources: Collection[str]) -> bool:
    """Return whether an undo or a repair has changed star rows of `sources` since `looked_until`."""
    return (
        batch.connection.execute(
            """
            select from audit.load inner join audit.run using (run_id)
            where load.source = any(%s) and run.flow = any(%s) and load.load_id > %s
            limit 1
            """,
            [list(sources), list(CORRECTING), looked_until(batch)],
        ).rowcount
        > 0
    )


def _read_since(batch: Batch, table: str) -> _Since | None:
    """Read what was published since the entity last followed a table; None if it never has."""
    row = batch.connection.execute(
        """
        select
            array_remove(array_agg(distinct load.run_id), null),
            (select coalesce(max(known.loaded_at), '-infinity') - interval '1 day' from audit.load as known
             where known.load_id <= followed.load_id)::text,
            not coalesce(bool_or(run.pruned_at is not null), false)
        from audit.followed as followed
        left join audit.load as load on load.load_id > followed.load_id and load.source <> followed.source
        left join audit.run as run on load.run_id = run.run_id
        where followed.source = %s and followed.entity = %s and followed.table_name = %s
        group by followed.load_id
        """,
        [batch.source, batch.entity.name, f"dwh.{table}"],
    ).fetchone()
    return _Since(*row) if row else None


def _collect(batch: Batch, table: str, since: _Since) -> int:
    """Fill a temporary table with the new and old images of the changed rows; returns their number.

    Inserts are not in the change log: such a row has its run's id. Updates and deletes are logged with both images.
    """
    has_history = any(one.table == table and one.has_history for one in DIMENSIONS)
    names = {
        "table": sql.Identifier("dwh", table),
        "name": sql.Literal(f"dwh.{table}"),
        "runs": sql.Literal(since.runs),
        "published_at": sql.Literal(since.published_at),
        "expired": sql.SQL("or held.expired_by_run_id = any({runs}::bigint[])" if has_history else "").format(
            runs=sql.Literal(since.runs)
        ),
    }
    rows = batch.format(
        """
        (
            select held.* from {table} as held where held.run_id = any({runs}::bigint[]) {expired}
            union all
            select image.*
            from audit.change_log as change
            cross join lateral (values (change.before), (change.after)) as logged (line)
            cross join lateral jsonb_populate_record(null::{table}, logged.line) as image
            where change.table_name = {name} and logged.line is not null and (
                change.run_id = any({runs}::bigint[])
                or change.run_id is null and change.changed_at > {published_at}::timestamptz
            )
        )
        """,
        **names,
    )
    return batch.create_temporary(f"followed_{table}", "{query}", query=select_with_members(table, rows))
