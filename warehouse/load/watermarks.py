"""Move the watermarks of a source to what its run has read, in the transaction that publishes it."""

from collections.abc import Mapping
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.errors import BatchOutdated
from warehouse.extract.cursor_window import is_moment
from warehouse.extract.key_order import KeyOrder
from warehouse.extract.range_store import record_splits, replace_ranges, update_ranges
from warehouse.extract.reading import take_smallest
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import batch_exists, batch_table
from warehouse.extract.watermark import (
    Rotation,
    Watermark,
    read_watermarks,
    unexplained_changes,
    write_watermarks,
)
from warehouse.runs.audit import Load
from warehouse.sources.source import Table


def refuse_outdated(connection: psycopg.Connection, run_id: int, staged: Staged) -> None:
    """Refuse a batch if another run was published or undone since it was staged, since its rows may be older.

    Raises:
        BatchOutdated: names the table and that run.
    """
    watermarks = read_watermarks(connection, staged.source.name, staged.source.tables)
    for one in staged.tables:
        now = watermarks.get(one.table)
        if now == one.before or _is_published(now, run_id, staged):
            continue
        cause = f"run {now.run_id} has published" if now else "an undo has removed the first load of"
        raise BatchOutdated(
            f"Since this run has read source '{one.table.source}', {cause} {one.table}.",
            hint=f"Nothing was changed. Run it again: `dwh run {one.table.source}`.",
        )


def move_watermarks(
    connection: psycopg.Connection, run_id: int, staged: Staged, loads: Mapping[str, Load]
) -> dict[str, str | None]:
    """Write the watermark and key ranges of each staged table; returns the highest cursor value of each mirror.

    `loads` has what the run did to each mirror. Only positions that a read covers are moved: reading by the cursor's
    index moves only the cursor, and only key ranges that were compared count as verified.
    """
    highs: dict[str, str | None] = {}
    moved: dict[Table, Watermark] = {}
    recut: list[tuple[Table, KeyOrder | None]] = []
    watermarks = read_watermarks(connection, staged.source.name, staged.source.tables)
    rows = {one.table: _row_count(one, loads) for one in staged.tables}
    small = take_smallest(rows, staged.limits.scan_rows)
    for one in staged.tables:
        if one.reading == "cursor" and not one.rows_read:
            continue
        high = highs[f"raw.{one.table.mirror}"] = _highest_cursor(connection, one, staged.snapshot)
        if one.reading == "skipped" or _is_published(watermarks.get(one.table), run_id, staged):
            continue
        if one.reading == "cursor":
            moved[one.table] = _moved_cursor(run_id, one, staged, high, rows[one.table], _changes(one, loads))
            continue
        watermark = _moved(run_id, one, staged, high, rows[one.table], _changes(one, loads))
        if one.reading == "ranges":
            if one.key_order is not None and one.ranges:
                record_splits(connection, run_id, one.table, one.range_splits)
                complete_xmin = update_ranges(
                    connection, run_id, one.table, one.key_order, one.ranges, staged.snapshot, staged.limits
                )
                watermark = replace(watermark, complete_xmin=max(watermark.complete_xmin, complete_xmin))
        else:
            recut.append((one.table, None if one.table in small else one.key_order))
        moved[one.table] = watermark
    if recut:
        replace_ranges(connection, run_id, recut, staged.snapshot, staged.limits)
    write_watermarks(connection, moved)
    return highs


def _is_published(watermark: Watermark | None, run_id: int, staged: Staged) -> bool:
    """Return whether an earlier attempt of this run published this batch already and lost the reply to its commit."""
    return (
        watermark is not None
        and watermark.run_id == run_id
        and watermark.captured_at == staged.snapshot.taken_at
    )


def _moved(
    run_id: int, one: StagedTable, staged: Staged, high: str | None, rows: int, changes: int
) -> Watermark:
    """Return the watermark of a table that was read in full or by key ranges, which changed so many rows."""
    snapshot, before, counters = staged.snapshot, one.before, one.counters
    is_complete = one.reading == "complete" or before is None
    has_confirmed = bool(one.rows_deleted) and staged.threshold.is_confirmed
    is_restarted = is_complete or one.is_rotation_over or has_confirmed
    read_at = before.captured_at if before is not None and staged.is_replay else snapshot.taken_at
    unexplained = 0
    if before is not None and counters is not None and not is_restarted:
        unexplained = unexplained_changes(before, counters.changes, changes)
    return Watermark(
        run_id,
        high,
        read_at,
        snapshot.identity,
        snapshot.open_transactions,
        one.identity,
        complete_at=read_at if is_complete or before is None else before.complete_at,
        complete_xmin=snapshot.xmin if is_complete or before is None else before.complete_xmin,
        row_count=rows,
        rotation=Rotation(read_at) if is_restarted else one.rotation,
        changes_counted=counters.changes if counters else None,
        changes_unexplained=unexplained,
    )


def _moved_cursor(
    run_id: int, one: StagedTable, staged: Staged, high: str | None, rows: int, changes: int
) -> Watermark:
    """Return the watermark of a table that was read by its cursor only.

    Until a backlog that is read in several batches is finished, the cursor stays where the backlog begins.
    """
    before, snapshot = one.before, staged.snapshot
    assert before is not None
    counted = before.changes_counted
    published = replace(
        before,
        run_id=run_id,
        row_count=rows,
        # The changes read by the cursor account for as many of the source's counter.
        changes_counted=None if counted is None else counted + changes,
    )
    if one.read_up_to is not None:
        return published
    return replace(
        published,
        cursor_value=high,
        captured_at=snapshot.taken_at,
        source=snapshot.identity,
        open_transactions=snapshot.open_transactions,
        table=one.identity,
    )


def _row_count(one: StagedTable, loads: Mapping[str, Load]) -> int:
    if one.source_rows is not None:
        return one.source_rows
    rows_before = (one.before.row_count if one.before else None) or 0
    load = loads.get(f"raw.{one.table.mirror}")
    return rows_before + (load.rows_inserted - load.rows_deleted if load else 0)


def _changes(one: StagedTable, loads: Mapping[str, Load]) -> int:
    """Count the rows that the batch has changed in the mirror, without rows that were only read again."""
    load = loads.get(f"raw.{one.table.mirror}")
    return load.rows_inserted + load.rows_updated + load.rows_deleted if load else 0


def _highest_cursor(connection: psycopg.Connection, staged: StagedTable, snapshot: Snapshot) -> str | None:
    """Return the highest cursor value of this and all earlier batches, without values later than the snapshot."""
    table = staged.table
    if table.cursor is None or not staged.rows_read:
        return staged.window_low
    has_batch = staying_session.remembered(
        connection, ("batch", table), lambda: batch_exists(connection, table)
    )
    rows = batch_table(table) if has_batch else sql.Identifier("raw", table.mirror)
    row = connection.execute(
        sql.SQL(
            """
            select cursor::text from (
                select {cursor} as cursor from {rows} union all select {low}::{type}
            ) as seen
            where cursor is not null and {is_past} order by cursor desc limit 1
            """
        ).format(
            cursor=sql.Identifier(table.cursor),
            rows=rows,
            is_past=sql.SQL("cursor <= {}").format(sql.Literal(snapshot.clock(staged.cursor_type)))
            if is_moment(staged.cursor_type)
            else sql.SQL("true"),
            low=sql.Literal(staged.window_low),
            type=sql.SQL(staged.cursor_type),
        )
    ).fetchone()
    return row[0] if row else None
