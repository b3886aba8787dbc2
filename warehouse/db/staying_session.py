"""A session that publishes batch after batch keeps its temporary tables and what it has read of the catalog.

A temporary table costs dozens of catalog rows to make and to drop, and each statement that names it is planned again.
A session that stays makes each table once: its rows end with the transaction, the table and the plans do not. All
other sessions make tables for one transaction, and read the catalog whenever they need it.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly

T = TypeVar("T")

# A table with more rows than this is sampled again, and statements are no longer run by plans made for few rows.
SMALL_ROWS: Final = 1000
# A table in more bytes than this is emptied by TRUNCATE: deleted rows would be passed by again and again.
SMALL_BYTES: Final = 64 * 1024
# Statements that a session keeps planned.
PLANS: Final = 1000
# A statement is planned for good when it comes for the third time.
PLAN_AFTER: Final = 2
# Values in a query, which differ between batches, where its columns do not.
_VALUE: Final = re.compile(r"'(?:[^']|'')*'|\b\d+\b")


@dataclass
class _Session:
    # By name, the query that a table was made for, without its values.
    tables: dict[str, str] = field(default_factory=dict)
    # The same of tables that the present transaction has made.
    made: dict[str, str] = field(default_factory=dict)
    # Names of tables that it has filled, and tables of which there is a sample.
    filled: set[str] = field(default_factory=set)
    sampled: set[str] = field(default_factory=set)
    # Names of tables of staging that fit.
    staging: set[str] = field(default_factory=set)
    catalog: dict[Hashable, Any] = field(default_factory=dict)
    is_large: bool = False
    is_open: bool = False


_sessions: WeakKeyDictionary[psycopg.Connection, _Session] = WeakKeyDictionary()


def stay(connection: psycopg.Connection) -> None:
    """Let the session keep what it makes and reads, until `forget`."""
    _sessions[connection] = _Session()
    connection.prepared_max, connection.prepare_threshold = PLANS, PLAN_AFTER


def forget(connection: psycopg.Connection) -> None:
    """Forget what was read of the catalog, since it may have changed, and drop the tables that were made by it."""
    if connection not in _sessions:
        return
    names = connection.execute(
        "select relname from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'"
    ).fetchall()
    if names:
        connection.execute(sql.SQL("drop table {}").format(_tables([name for (name,) in names])))
    _sessions[connection] = _Session()


def sample_again(connection: psycopg.Connection) -> None:
    """Sample each table when it is filled next: another session has filled the tables of staging, or made them."""
    if session := _sessions.get(connection):
        session.sampled.clear()


def begin(connection: psycopg.Connection) -> None:
    """Begin a transaction that makes temporary tables. After one that has not ended, nothing is known of its tables."""
    session = _sessions.get(connection)
    if session is None:
        return
    if session.is_open:
        forget(connection)
        session = _sessions[connection]
    elif session.made:
        # Those that were made within a savepoint may be gone.
        there = connection.execute(
            "select relname from pg_class where relnamespace = pg_my_temp_schema() and relname = any(%s)",
            [list(session.made)],
        ).fetchall()
        session.tables |= {name: session.made[name] for (name,) in there}
    session.made.clear()
    session.filled.clear()
    session.is_open, session.is_large = True, False
    connection.prepare_threshold = PLAN_AFTER
    # What is merged is read from the least key of the batch to its greatest. A plan outlives the batch that it was made
    # for, and in another one an old order is changed beside the newest.
    connection.execute("set local enable_mergejoin = off")


def end(connection: psycopg.Connection) -> None:
    """Say that the transaction is about to be committed."""
    if session := _sessions.get(connection):
        session.is_open = False


def create_temporary(
    connection: psycopg.Connection, name: str, query: sql.Composable, *, replaces: bool = False
) -> int:
    """Fill the temporary table `name` with the rows of a query, which may run in parallel; returns their number.

    The table ends with the transaction, or, of a session that stays, its rows do. `replaces` says that this transaction
    may have filled it before.
    """
    session, table = _sessions.get(connection), sql.Identifier("pg_temp", name)
    if session is None:
        if replaces:
            connection.execute(sql.SQL("drop table if exists {}").format(table))
        create = sql.SQL("create temp table {} on commit drop as {}")
        return connection.execute(create.format(sql.Identifier(name), query)).rowcount
    text = query.as_string(connection)
    shape = _VALUE.sub("", text)
    if session.tables.get(name) == shape:
        if name in session.filled:
            connection.execute(sql.SQL("delete from {}").format(table))
        rows = connection.execute(
            f"insert into pg_temp.{sql.Identifier(name).as_string()} {text}".encode()
        ).rowcount
    else:
        connection.execute(sql.SQL("drop table if exists {}").format(table))
        create = sql.SQL("create temp table {} on commit delete rows as {}")
        rows = connection.execute(create.format(sql.Identifier(name), query)).rowcount
        session.tables.pop(name, None)
        session.sampled.discard(table.as_string())
        session.made[name] = shape
    session.filled.add(name)
    expect_rows(connection, rows)
    return rows


def drop_temporary(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Drop temporary tables; a session that stays keeps them."""
    if connection not in _sessions:
        connection.execute(sql.SQL("drop table if exists {}").format(_tables(names)))


def is_filled(connection: psycopg.Connection, name: str) -> bool:
    """Whether this transaction has filled the temporary table `name`, were it with no rows."""
    if session := _sessions.get(connection):
        return name in session.filled
    row = connection.execute(
        "select to_regclass(%s) is not null", [sql.Identifier("pg_temp", name).as_string(connection)]
    ).fetchone()
    return bool(row and row[0])


def expect_rows(connection: psycopg.Connection, rows: int) -> None:
    """Plan the statements of a transaction that handles so many rows as they come, and sample its tables."""
    session = _sessions.get(connection)
    if session is not None and rows > SMALL_ROWS and not session.is_large:
        session.is_large = True
        connection.prepare_threshold = None
        connection.execute("set local enable_mergejoin to default")


def analyze(connection: psycopg.Connection, table: sql.Composable, columns: Sequence[str] = ()) -> None:
    """Sample a table that lives for one run; one that is kept only at first, and where it has many rows."""
    if (session := _sessions.get(connection)) is not None and not session.is_large:
        name = table.as_string(connection)
        if name in session.sampled:
            return
        session.sampled.add(name)
    analyze_briefly(connection, table, columns)


def empty(connection: psycopg.Connection, *tables: sql.Identifier) -> None:
    """Empty tables. TRUNCATE writes new files, and whatever names the table is planned again: few rows are deleted."""
    found = connection.execute(
        sql.SQL(" union all ").join(
            sql.SQL("select {}, pg_relation_size({}) where exists (select from {})").format(
                sql.Literal(place), sql.Literal(table.as_string(connection)), table
            )
            for place, table in enumerate(tables)
        )
    ).fetchall()
    session = _sessions.get(connection)
    for place, size in found:
        statement = "delete from {}" if size <= SMALL_BYTES else "truncate {}"
        connection.execute(sql.SQL(statement).format(tables[place]))
        if session is not None and size > SMALL_BYTES:
            # A new file has no sample: thousands of rows would be expected of it.
            session.sampled.discard(tables[place].as_string(connection))


def keep(connection: psycopg.Connection, name: str) -> None:
    """Say that a table of staging fits what the session will put into it; a session that stays need not make it
    again."""
    if session := _sessions.get(connection):
        session.staging.add(name)


def is_kept(connection: psycopg.Connection, name: str) -> bool:
    """Whether `keep` was called for a table of staging since the session has begun to stay, or has forgotten."""
    session = _sessions.get(connection)
    return session is not None and name in session.staging


def remembered(connection: psycopg.Connection, what: Hashable, read: Callable[[], T]) -> T:
    """What `read` finds in the catalog; a session that stays asks once."""
    session = _sessions.get(connection)
    if session is None:
        return read()
    if what not in session.catalog:
        session.catalog[what] = read()
    return cast(T, session.catalog[what])


def _tables(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier("pg_temp", name) for name in names)
