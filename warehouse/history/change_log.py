"""The change log: rows before and after each change, logged by triggers on every table that a run writes."""

from typing import Final

import psycopg
from psycopg import sql

from warehouse.db.locks import try_transaction_lock

# Only one run at a time writes the star, whatever its source; the lock is released at the end of its transaction.
STAR_LOCK: Final = "dwh star"
# Query of the time until which all rows of the tables named in `log (name)` are committed. A transaction with
# uncommitted rows holds this lock, and wrote them after its xact_start, which is null for sessions of other roles:
# then assume '-infinity'.
COMMITTED_UNTIL: Final = """
    select log.name, least(statement_timestamp(), min(coalesce(writer.xact_start, '-infinity'))
            filter (where held.locktype is not null)) as until
    from log
    left join pg_locks as held
        on held.relation = log.name::regclass and held.mode = 'RowExclusiveLock'
        and held.database = (select oid from pg_database where datname = current_database())
        and held.pid is distinct from pg_backend_pid()
    left join pg_stat_activity as writer on held.pid = writer.pid
    group by log.name
"""


def create_triggers(connection: psycopg.Connection, schema: str, table: str) -> None:
    """Create the triggers that log changes of a table: of the star in audit.change, which people read; of any other
    table its before-images in audit.before_image, only for undo."""
    is_of_star = schema == "dwh"
    connection.execute(
        sql.SQL(_TRIGGERS).format(
            table=sql.Identifier(schema, table),
            function=sql.Identifier("audit", "log_change" if is_of_star else "log_before_image"),
            new_rows=sql.SQL("new table as new_rows" if is_of_star else ""),
        )
    )


def log_added_column(connection: psycopg.Connection, mirror: str, column: str) -> None:
    """Log that the run of this transaction added a column to a mirror, so that its undo drops the column."""
    relation = sql.Identifier("raw", mirror).as_string(connection)
    connection.execute(
        """
        insert into audit.before_image (table_name, operation, run_id, database_user, changed_at, row_schema_id, before)
        select
            %(table)s, 'alter', audit.current_run_id(), session_user, clock_timestamp(),
            audit.row_schema_id(%(relation)s::regclass), array[%(column)s]
        """,
        {"table": f"raw.{mirror}", "relation": relation, "column": column},
    )


def prune(connection: psycopg.Connection, keep_days: int) -> int:
    """Delete logged changes older than `keep_days`, unless a run is publishing just now. Returns the number of rows.

    Runs whose changes may have been deleted are marked as pruned: they can no longer be undone.
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
            pruned
            + connection.execute("delete from audit.before_image where changed_at < %s", [until]).rowcount
        )


_TRIGGERS = """
    create trigger log_update after update on {table}
        referencing old table as old_rows {new_rows} for each statement execute function {function}();
    create trigger log_delete after delete on {table}
        referencing old table as old_rows for each statement execute function {function}();
    create trigger log_truncate before truncate on {table} for each statement execute function {function}()
"""
