"""One repeatable-read snapshot of a source, and the checks that it shows every row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from warehouse.db.connections import read_only_transaction
from warehouse.db.identifiers import to_paste
from warehouse.db.type_names import without_modifier
from warehouse.errors import SourceError
from warehouse.extract.catalog import names_at_source
from warehouse.extract.open_transactions import OpenTransactions, standby_error
from warehouse.extract.source_identity import SourceIdentity
from warehouse.extract.source_locks import lock_tables
from warehouse.sources.source import Table


@dataclass(frozen=True)
class Snapshot:
    """What a watermark records of the snapshot that a run read from."""

    identity: SourceIdentity
    # Not later than the snapshot, which therefore shows everything that was committed before.
    taken_at: datetime
    # As read just before the snapshot, with its text; None if they were not read.
    open_transactions: OpenTransactions | None = None
    # UTC offset of the source's default time zone.
    utc_offset: timedelta = timedelta(0)

    def clock(self, kind: str) -> datetime:
        """The time of the snapshot as the source stamps it in a column of type `kind`."""
        if without_modifier(kind) == "timestamp with time zone":
            return self.taken_at
        return self.taken_at.astimezone(UTC).replace(tzinfo=None) + self.utc_offset

    @property
    def xmin(self) -> int:
        """Lower bound of the ids of all transactions that this snapshot does not see."""
        return self.identity.snapshot_xmin


@contextmanager
def snapshot_of(
    source: str,
    url: str,
    tables: Sequence[Table] = (),
    *,
    lock_wait_seconds: float = 60,
    find_open_transactions: Callable[[], OpenTransactions] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[psycopg.Connection, Snapshot]]:
    """Open a read-only connection on which every statement sees the same moment of the `tables` of `source`.

    If another session has locked one of them, reports the session to `progress`, and waits. `find_open_transactions` is
    called before the snapshot is taken: transactions that the snapshot does not see may end right after it. It is also
    called before this connects, so that the source need not allow two connections.

    Raises:
        SourceLocked: a table is still locked after `lock_wait_seconds`.
        ConnectionFailed, AccessRefused: the source cannot be reached, or refuses the connection.
        SourceError: the server is a standby, on which rows that committed late cannot be detected.
    """
    open_transactions = find_open_transactions() if find_open_transactions else None
    with read_only_transaction(
        source, url, application_name="dwh capture", isolation=psycopg.IsolationLevel.REPEATABLE_READ
    ) as connection:
        if tables:
            lock_tables(connection, source, url, tables, lock_wait_seconds, progress)
        yield connection, take_snapshot(connection, source, open_transactions)


def take_snapshot(
    connection: psycopg.Connection, source: str, open_transactions: OpenTransactions | None
) -> Snapshot:
    """Take the snapshot of a repeatable-read transaction of `source` that has none yet.

    Raises:
        SourceError: the server is a standby.
    """
    row = connection.execute(
        """
        select
            pg_is_in_recovery(),
            pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
            pg_current_snapshot()::text,
            statement_timestamp(),
            has_function_privilege('pg_control_system()', 'execute'),
            (select oid::bigint from pg_database where datname = current_database()), current_database()::text,
            -- The default time zone: this transaction's own is UTC.
            statement_timestamp() at time zone (select reset_val from pg_settings where name = 'TimeZone')
                - statement_timestamp() at time zone 'UTC'
        """
    ).fetchone()
    assert row is not None
    standby, xmin, text, taken_at, can_read_identifier, database_oid, database_name, utc_offset = row
    if standby:
        raise standby_error(source)
    # From the WAL position: after a promotion, the control file has the old timeline until the first checkpoint.
    row = connection.execute(
        """
        select
            ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer,
            (pg_current_wal_insert_lsn() - '0/0')::bigint
        """
    ).fetchone()
    assert row is not None
    timeline, wal_position = row
    system_identifier = None
    if can_read_identifier:
        row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
        assert row is not None
        (system_identifier,) = row
    identity = SourceIdentity(system_identifier, timeline, database_oid, database_name, wal_position, xmin)
    if open_transactions is not None:
        open_transactions = replace(open_transactions, snapshot=text)
    return Snapshot(identity, taken_at, open_transactions, utc_offset)


@dataclass(frozen=True)
class Relation:
    """A table or view of a source, and what `user` may do with it."""

    kind: str
    has_usage: bool
    has_select: bool
    hides_rows: bool
    user: str


def read_relations(connection: psycopg.Connection, tables: Sequence[Table]) -> list[Relation | None]:
    """Read the kind and privileges of source tables from the catalog, for `check_relation`; None if one is missing."""
    rows = connection.execute(
        """
        select
            place,
            case
                -- Rows of a partition or child that is a foreign table have no xmin.
                when relkind in ('r', 'p') and exists (
                    with recursive part as (
                        select class.oid
                        union
                        select inhrelid from pg_inherits inner join part on inhparent = part.oid
                    )

                    select from part inner join pg_class as stored using (oid) where stored.relkind = 'f'
                ) then 'f'
                else relkind::text
            end,
            has_schema_privilege(namespace.oid, 'usage'),
            has_table_privilege(class.oid, 'select'), row_security_active(class.oid), current_user::text
        from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality as wanted (schema, name, place)
        inner join pg_namespace as namespace on nspname = wanted.schema
        inner join pg_class as class on class.relnamespace = namespace.oid and relname = wanted.name
        """,
        names_at_source(tables),
    ).fetchall()
    found = {place: Relation(*relation) for place, *relation in rows}
    return [found.get(place) for place, _ in enumerate(tables, start=1)]


def check_readable(connection: psycopg.Connection, table: Table) -> bool:
    """Refuse a table or view that this session cannot read completely.

    Returns whether its rows have an xmin. Rows of views and foreign tables have none, nor those of a table with a
    foreign table as its partition.

    Raises:
        SourceError: it does not exist, is neither table nor view, may not be read, or row-level security hides rows.
    """
    (relation,) = read_relations(connection, [table])
    return check_relation(connection, table, relation)


def check_relation(connection: psycopg.Connection, table: Table, relation: Relation | None) -> bool:
    """Check a table by what `read_relations` has read of it; returns and raises as `check_readable`."""
    if relation is None:
        generated = " (`dwh generate shop` generates a shop)" if table.source == "shop" else ""
        hint = f"Create it{generated}, or take it out of the source.toml of '{table.source}'."
        if schemas := _schemas_with(connection, table.at_source[1]):
            hint = f'If it has moved, declare schema = "{schemas[0]}" under [tables.{table.name}]. {hint}'
        raise SourceError(f"Source '{table.source}' has no table {table}.", hint=hint)
    user = relation.user
    if not relation.has_usage:
        raise SourceError(
            f"User {user} may not use schema {table.schema} of source '{table.source}'.",
            hint=f"Run there: grant usage on schema {to_paste(table.schema)} to {to_paste(user)}.",
        )
    if relation.kind not in ("r", "p", "v", "m", "f"):
        raise SourceError(
            f"{table} of source '{table.source}' is neither a table nor a view.",
            hint=f"Take it out of the source.toml of '{table.source}'.",
        )
    if not relation.has_select:
        name = to_paste(*table.at_source)
        hint = f"Run there: grant select on {name} to {to_paste(user)}."
        row = connection.execute("select has_any_column_privilege(%s, 'select')", [name]).fetchone()
        if row == (True,):
            hint += " If it is to read some columns only, declare a view of these in its place."
        raise SourceError(f"User {user} may not read {table} of source '{table.source}'.", hint=hint)
    if relation.hides_rows:
        raise SourceError(
            f"Row-level security hides rows of {table} of source '{table.source}' from user {user}.",
            hint=f"Run there: alter role {to_paste(user)} bypassrls; or use a role to which no policy applies.",
        )
    if relation.kind == "v":
        _check_view(connection, table, user)
    return relation.kind in ("r", "p")


def _schemas_with(connection: psycopg.Connection, name: str) -> list[str]:
    """Return the schemas that have a table or view of this name."""
    rows = connection.execute(
        "select nspname from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace "
        "where relname = %s and relkind in ('r', 'p', 'v', 'm', 'f') order by nspname",
        [name],
    ).fetchall()
    return [schema for (schema,) in rows]


def _check_view(connection: psycopg.Connection, table: Table, user: str) -> None:
    """Refuse a view with hidden rows, or that reads tables without the privilege: planning it raises the error."""
    try:
        # In a savepoint, since the transaction has to survive the error.
        with connection.transaction():
            connection.execute(sql.SQL("explain select from {}").format(sql.Identifier(*table.at_source)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceError(
            f"View {table} of source '{table.source}' cannot be read completely: {error.diag.message_primary}.",
            hint=f"Grant what is missing there to {user}, or to the view's owner; to whom a row-level policy applies, "
            "bypassrls: what rows the view is to show belongs into its own conditions.",
        ) from error
