"""Move the watermarks of a source to what its run has read, in the transaction that publishes it."""

import psycopg
from psycopg import sql

from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import batch_exists, batch_table
from warehouse.extract.watermark import is_moment, write_watermark


def move_watermarks(connection: psycopg.Connection, run_id: int, staged: Staged) -> dict[str, str | None]:
    """Write the watermark of each staged table; returns the highest cursor value of each mirror."""
    highs = {}
    for one in staged.tables:
        high = _highest_cursor(connection, one, staged.snapshot)
        write_watermark(connection, run_id, one, high, staged.snapshot)
        highs[f"raw.{one.table.mirror}"] = high
    return highs


def _highest_cursor(connection: psycopg.Connection, staged: StagedTable, snapshot: Snapshot) -> str | None:
    """The highest cursor value of the batch and of all before it; none that is later than the snapshot, as infinity."""
    table = staged.table
    if table.cursor is None or not staged.rows_read:
        return staged.window_low
    rows = batch_table(table) if batch_exists(connection, table) else sql.Identifier("raw", table.mirror)
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
            is_past=sql.SQL("cursor <= {}").format(sql.Literal(snapshot.taken_at))
            if is_moment(staged.cursor_type)
            else sql.SQL("true"),
            low=sql.Literal(staged.window_low),
            type=sql.SQL(staged.cursor_type),
        )
    ).fetchone()
    return row[0] if row else None
