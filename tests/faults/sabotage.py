"""Defects put into the engine on purpose, in a process of tests.faults.flow_process: the harnesses must notice."""

from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from psycopg import sql


def drop_the_net(_: Connection) -> None:
    """Capture by cursor alone, as if every transaction committed when its rows were stamped, whatever checksums say."""
    from warehouse.extract import range_verification, stage_table, table_scan

    changed_since = stage_table.changed_since

    def by_cursor_alone(watermark: Any, snapshot_xmin: int, **_: Any) -> sql.Composable:
        said = changed_since(watermark, snapshot_xmin)
        if watermark is None or watermark.cursor_value is None:
            return said
        return sql.SQL("updated_at > {}").format(sql.Literal(watermark.cursor_value))

    _replace(stage_table, "changed_since", by_cursor_alone)
    # Nor is what the checksums show read.
    for module in (table_scan, range_verification):
        _replace(module, "read_missed_rows", lambda *_, **__: 0)


def move_watermarks_early(_: Connection) -> None:
    """Commit how far a run has read before what it has read."""
    from warehouse.load import publish, star_load

    merge = star_load.merge_mirrors

    def late(connection: Any, run_id: int, staged: Any, *arguments: Any) -> Any:
        publish.move_watermarks(connection, run_id, staged, {})
        connection.commit()
        return merge(connection, run_id, staged, *arguments)

    _replace(star_load, "merge_mirrors", late)


def forget_holders(_: Connection) -> None:
    """Nobody is told who holds the lock that he waits for."""
    from warehouse.db import locks

    _replace(locks, "_holder", lambda *_: None)


def share_every_lock(_: Connection) -> None:
    """Locks that keep nobody out."""
    from warehouse.db import locks

    session_lock = locks.session_lock
    _replace(
        locks,
        "session_lock",
        lambda *arguments, **options: session_lock(*arguments, **(options | {"shared": True})),
    )


def _replace(module: ModuleType, name: str, value: object) -> None:
    assert hasattr(module, name), f"{module.__name__} has no {name} any more: nothing would be sabotaged"
    setattr(module, name, value)
