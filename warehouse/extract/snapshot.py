"""One repeatable-read snapshot of a source, and the reasons not to trust one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.errors import SourceError
from warehouse.sources.declaration import Table


@dataclass(frozen=True)
class Snapshot:
    """What a watermark must remember of the snapshot that a run read from."""

    # Every transaction that this snapshot did not see has an id at or past xmin.
    xmin: int
    # Whether no transaction was in flight: then every older one has committed, and is seen.
    is_quiet: bool
    system_identifier: str | None
    timeline: int | None
    taken_at: datetime


# What `check_readable` says better, and of the table alone.
_UNREADABLE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.WrongObjectType,
)


@contextmanager
def snapshot_of(url: str, tables: Sequence[Table] = ()) -> Iterator[tuple[psycopg.Connection, Snapshot]]:
    """A read-only connection on which every statement sees the same moment of the source's `tables`.

    Raises:
        SourceError: the server is a standby, on which rows that committed late cannot be told.
    """
    with connect(url, application_name="dwh capture") as connection:
        connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        connection.set_read_only(True)
        if tables:
            _bar_rewriting(connection, tables)
        row = connection.execute(
            """
            select
                pg_is_in_recovery(),
                pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                pg_snapshot_xmin(pg_current_snapshot()) = pg_snapshot_xmax(pg_current_snapshot()),
                clock_timestamp(),
                has_function_privilege('pg_control_system()', 'execute')
            """
        ).fetchone()
        assert row is not None
        standby, xmin, is_quiet, taken_at, tells_identity = row
        if standby:
            raise SourceError(
                "The source is a standby (read replica).",
                hint="Point DWH_SOURCE_URL or DWH_SHOP_URL at the primary: "
                "a standby cannot prove that no row is missed.",
            )
        # The control file would tell a promoted server's old timeline until its first checkpoint.
        row = connection.execute(
            "select ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer"
        ).fetchone()
        assert row is not None
        (timeline,) = row
        system_identifier = None
        if tells_identity:
            row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
            assert row is not None
            (system_identifier,) = row
        yield connection, Snapshot(xmin, is_quiet, system_identifier, timeline, taken_at)


def _bar_rewriting(connection: psycopg.Connection, tables: Sequence[Table]) -> None:
    """Let TRUNCATE and ALTER TABLE wait until the tables are read, or wait for them, before the snapshot is taken.

    A table that either has rewritten after it shows no rows to an older snapshot: all would seem deleted.
    """
    names = sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables)
    try:
        connection.execute(sql.SQL("lock table {} in access share mode").format(names))
    except _UNREADABLE:
        connection.rollback()


def check_readable(connection: psycopg.Connection, table: Table) -> None:
    """Refuse a table of which this session would see only a part.

    Raises:
        SourceError: it does not exist, is no table, may not be read, or row-level security hides rows of it.
    """
    row = connection.execute(
        """
        select
            relkind, has_schema_privilege(schema.oid, 'usage'), has_table_privilege(class.oid, 'select'),
            row_security_active(class.oid), current_user
        from pg_class as class
        inner join pg_namespace as schema on class.relnamespace = schema.oid
        where nspname = %s and relname = %s
        """,
        [table.schema, table.name],
    ).fetchone()
    if row is None:
        raise SourceError(
            f"Source '{table.source}' has no table {table}.",
            hint="Create it (`dwh generate shop` makes up a shop), or take it out of "
            f"warehouse/sources/{table.source}/source.toml.",
        )
    kind, may_enter, may_read, hides_rows, user = row
    if not may_enter:
        raise SourceError(
            f"User {user} may not use schema {table.schema} of source '{table.source}'.",
            hint=f"Run there: grant usage on schema {table.schema} to {user}.",
        )
    if kind not in ("r", "p"):
        raise SourceError(
            f"{table} of source '{table.source}' is no table, "
            "and only a table's rows say which transaction wrote them.",
            hint="Capture the tables behind it and join them in conform SQL.",
        )
    if not may_read:
        raise SourceError(
            f"User {user} may not read {table} of source '{table.source}'.",
            hint=f"Run there: grant select on {table} to {user}.",
        )
    if hides_rows:
        raise SourceError(
            f"Row-level security hides rows of {table} of source '{table.source}' from user {user}.",
            hint=f"Run there: alter role {user} bypassrls; or use a role to which no policy applies.",
        )
