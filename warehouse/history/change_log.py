"""The change feed: what rows were before they changed, by triggers on every table that a run writes."""

from typing import Final

import psycopg
from psycopg import sql

from warehouse.db.locks import try_transaction_lock

# One run at a time writes the star, whatever its source; held by the transaction, so that it dies with it.
STAR_LOCK: Final = "dwh star"
# Owns the audit trail: its triggers act as this role.
OWNER: Final = "dwh_owner"

_TRIGGERS = """
    create trigger tell_update after update on {table}
        referencing old table as old_rows {new_rows} for each statement execute function {function}();
    create trigger tell_delete after delete on {table}
        referencing old table as old_rows for each statement execute function {function}();
    create trigger tell_truncate before truncate on {table} for each statement execute function {function}()
"""


def tracing(schema: str, table: str, *, is_told: bool = False) -> sql.Composed:
    """Triggers by which the audit trail gets to know what rows of a table were: in audit.change, where people read it
    (`is_told`), else in audit.before_image, for undo alone."""
    return sql.SQL(_TRIGGERS).format(
        table=sql.Identifier(schema, table),
        function=sql.Identifier("audit", "keep_change" if is_told else "keep_before_image"),
        new_rows=sql.SQL("new table as new_rows" if is_told else ""),
    )


def keep_added_column(connection: psycopg.Connection, mirror: str, column: str) -> None:
    """Remember that the run of this transaction added a column to a mirror: its undo takes it away again."""
    relation = sql.Identifier("raw", mirror).as_string(connection)
    connection.execute(
        """
        insert into audit.before_image (table_name, operation, run_id, database_user, kept_at, layout_id, before)
        select
            %(table)s, 'alter', audit.current_run_id(), session_user, clock_timestamp(),
            audit.row_layout(%(relation)s::regclass), array[%(column)s]
        """,
        {"table": f"raw.{mirror}", "relation": relation, "column": column},
    )


def prune(connection: psycopg.Connection, keep_days: int) -> int:
    """Give up what is older than `keep_days`, unless a run is publishing just now; how many rows.

    Runs of which something may have been given up are marked: they cannot be undone any more.
    """
    with connection.transaction():
        if not try_transaction_lock(connection, STAR_LOCK):
            return 0
        row = connection.execute(
            "select clock_timestamp() - make_interval(days => %s)", [keep_days]
        ).fetchone()
        assert row is not None
        (until,) = row
        connection.execute(
            "update audit.run set pruned_at = clock_timestamp() where pruned_at is null and started_at < %s",
            [until],
        )
        pruned = connection.execute("delete from audit.change where changed_at < %s", [until]).rowcount
        return (
            pruned + connection.execute("delete from audit.before_image where kept_at < %s", [until]).rowcount
        )
