"""Explain the changes of a row, from the change log."""

from collections.abc import Sequence

import psycopg

from warehouse.explain.node import Node
from warehouse.explain.origin import describe_run

HOUSEKEEPING = ("row_hash", "run_id", "expired_by_run_id", "batch_id")


def changes_of(connection: psycopg.Connection, table: str, key: Sequence[str | None]) -> list[Node]:
    """Changes of a row from the change log: who changed it, when, and what it was before."""
    rows = connection.execute(
        """
        select changed_at, operation, run_id, batch_number, database_user, changed_columns, before, after
        from audit.change_log
        where table_name = %s and row_key = %s::text[] order by change_id
        """,
        [table, list(key)],
    ).fetchall()
    return [
        Node(
            f"{operation} of {table} {' '.join(str(part) for part in key)} at {changed_at:%Y-%m-%d %H:%M:%S} UTC",
            {
                "by": describe_run(connection, run_id) if run_id else f"hand, as {user}",
                **({"batch": number} if number else {}),
                **{
                    name: f"{before.get(name)} → {after.get(name)}"
                    for name in columns or ()
                    if name not in HOUSEKEEPING
                },
            },
        )
        for changed_at, operation, run_id, number, user, columns, before, after in rows
    ]
