"""Defects put into the engine on purpose, in a process of tests.faults.flow_process: the harnesses must notice."""

from multiprocessing.connection import Connection
from typing import Any

from psycopg import sql


def drop_the_net(_: Connection) -> None:
    """Capture by cursor alone, as if every transaction committed when its rows were stamped, whatever checksums say."""
    from warehouse.extract import stage_table

    changed_since = stage_table.changed_since

    def by_cursor_alone(watermark: Any, snapshot_xmin: int, **_: Any) -> sql.Composable:
        said = changed_since(watermark, snapshot_xmin)
        if watermark is None or watermark.cursor_value is None:
            return said
        return sql.SQL("updated_at > {}").format(sql.Literal(watermark.cursor_value))

    stage_table.changed_since = by_cursor_alone
    # Nor is what the checksums show read.
    stage_table.read_missed_rows = lambda *_: 0


def move_watermarks_early(_: Connection) -> None:
    """Commit how far a run has read before what it has read."""
    from warehouse.load import publish

    merge = publish.merge_mirrors

    def late(connection: Any, run_id: int, staged: Any, *arguments: Any) -> Any:
        publish.move_watermarks(connection, run_id, staged, {})
        connection.commit()
        return merge(connection, run_id, staged, *arguments)

    publish.merge_mirrors = late


def forget_holders(_: Connection) -> None:
    """Nobody is told who holds the lock that he waits for."""
    from warehouse.db import locks

    locks._holder = lambda *_: None


def share_every_lock(_: Connection) -> None:
    """Locks that keep nobody out."""
    from warehouse.db import locks

    session_lock = locks.session_lock
    locks.session_lock = lambda *arguments, **options: session_lock(
        *arguments, **(options | {"shared": True})
    )
