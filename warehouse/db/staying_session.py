"""Reuse temporary tables, plans and catalog reads in a session that publishes batch after batch (`dwh live`).

To create and drop a temporary table writes dozens of catalog rows, and each statement that names it is planned again.
A session that stays creates each table once: its rows are deleted at the end of the transaction, while the table and
the plans are kept. All other sessions create tables for one transaction, and read the catalog whenever they need it.
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

# Above this number of rows, tables are analyzed again, and plans made for few rows are no longer used.
SMALL_ROWS: Final = 1000
# A table of more bytes is emptied by TRUNCATE: every scan would read its deleted rows again.
SMALL_BYTES: Final = 64 * 1024
# Prepared statements that a session keeps.
PLANS: Final = 1000
# A statement is prepared when it is executed for the third time.
PLAN_AFTER: Final = 2
# Literals of a query, which differ between batches.
_VALUE: Final = re.compile(r"'(?:[^']|'')*'|\b\d+\b")


@dataclass
class _Session:
    # Query that each temporary table was created for, without its literals, by the table's name.
    tables: dict[str, str] = field(default_factory=dict)
    # The same for tables that the present transaction has created.
    made: dict[str, str] = field(default_factory=dict)
    # Names of tables that the transaction has filled, and tables that were analyzed.
    filled: set[str] = field(default_factory=set)
    sampled: set[str] = field(default_factory=set)
    # Names of staging tables that have the right columns.
    staging: set[str] = field(default_factory=set)
    catalog: dict[Hashable, Any] = field(default_factory=dict)
    is_large: bool = False
    is_open: bool = False


_sessions: WeakKeyDictionary[psycopg.Connection, _Session] = WeakKeyDictionary()


def stay(connection: psycopg.Connection) -> None:
    """Let the session keep its temporary tables, plans and catalog reads, until `forget`."""
    _sessions[connection] = _Session()
    connection.prepared_max, connection.prepare_threshold = PLANS, PLAN_AFTER


def forget(connection: psycopg.Connection) -> None:
    """Discard what was read of the catalog, since it may have changed, and drop the session's temporary tables."""
    if connection not in _sessions:
        return
    names = connection.execute(
        "select relname from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'"
    ).fetchall()
    if names:
        connection.execute(sql.SQL("drop table {}").format(_tables([name for (name,) in names])))
    _sessions[connection] = _Session()


def sample_again(connection: psycopg.Connection) -> None:
    """Analyze each table when it is next filled: another session has filled the staging tables, or created them."""
    if session := _sessions.get(connection):
        session.sampled.clear()


def begin(connection: psycopg.Connection) -> None:
    """Begin a transaction that creates temporary tables. If `end` was not called for the last one, its tables may be
    gone: all are dropped."""
    session = _sessions.get(connection)
    if session is None:
        return
    if session.is_open:
        forget(connection)
        session = _sessions[connection]
    elif session.made:
        # Tables that were created within a savepoint may have been rolled back.
        existing = connection.execute(
            "select relname from pg_class where relnamespace = pg_my_temp_schema() and relname = any(%s)",
            [list(session.made)],
        ).fetchall()
        session.tables |= {name: session.made[name] for (name,) in existing}
    session.made.clear()
    session.filled.clear()
    session.is_open, session.is_large = True, False
    connection.prepare_threshold = PLAN_AFTER
    # A merge join reads the table from the least key of the batch to its greatest. Plans are kept for other batches, in
    # which an old order may be changed beside the newest: they would read all rows in between.
    connection.execute("set local enable_mergejoin = off")


def end(connection: psycopg.Connection) -> None:
    """Record that the transaction is about to be committed."""
    if session := _sessions.get(connection):
        session.is_open = False


def create_temporary(
    connection: psycopg.Connection, name: str, query: sql.Composable, *, replaces: bool = False
) -> int:
    """Fill the temporary table `name` with the rows of a query, which may run in parallel; returns their number.

    The table is dropped at the end of the transaction; in a session that stays, only its rows are deleted. `replaces`:
    this transaction may have filled it before.
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
    """Whether this transaction has filled the temporary table `name`, even if with no rows."""
    if session := _sessions.get(connection):
        return name in session.filled
    row = connection.execute(
        "select to_regclass(%s) is not null", [sql.Identifier("pg_temp", name).as_string(connection)]
    ).fetchone()
    return bool(row and row[0])


def expect_rows(connection: psycopg.Connection, rows: int) -> None:
    """If a transaction handles many rows, plan each of its statements again, and analyze its tables."""
    session = _sessions.get(connection)
    if session is not None and rows > SMALL_ROWS and not session.is_large:
        session.is_large = True
        connection.prepare_threshold = None
        connection.execute("set local enable_mergejoin to default")


def analyze(connection: psycopg.Connection, table: sql.Composable, columns: Sequence[str] = ()) -> None:
    """Analyze a table that lives for one run; if it is kept, only the first time, or if there are many rows."""
    if (session := _sessions.get(connection)) is not None and not session.is_large:
        name = table.as_string(connection)
        if name in session.sampled:
            return
        session.sampled.add(name)
    analyze_briefly(connection, table, columns)


def empty(connection: psycopg.Connection, *tables: sql.Identifier) -> None:
    """Empty tables. A few rows are deleted, since TRUNCATE creates new files and invalidates plans on the table."""
    filled = connection.execute(
        sql.SQL(" union all ").join(
            sql.SQL("select {}, pg_relation_size({}) where exists (select from {})").format(
                sql.Literal(place), sql.Literal(table.as_string(connection)), table
            )
            for place, table in enumerate(tables)
        )
    ).fetchall()
    session = _sessions.get(connection)
    for place, size in filled:
        statement = "delete from {}" if size <= SMALL_BYTES else "truncate {}"
        connection.execute(sql.SQL(statement).format(tables[place]))
        if session is not None and size > SMALL_BYTES:
            # A new file has no statistics: the planner would expect thousands of rows.
            session.sampled.discard(tables[place].as_string(connection))


def keep(connection: psycopg.Connection, name: str) -> None:
    """Record that a staging table has the right columns, so that a session that stays need not create it again."""
    if session := _sessions.get(connection):
        session.staging.add(name)


def is_kept(connection: psycopg.Connection, name: str) -> bool:
    """Whether `keep` was called for a staging table since `stay`, or since the last `forget`."""
    session = _sessions.get(connection)
    return session is not None and name in session.staging


def remembered(connection: psycopg.Connection, what: Hashable, read: Callable[[], T]) -> T:
    """Return the result of `read`, a query of the catalog; a session that stays caches it by `what`."""
    session = _sessions.get(connection)
    if session is None:
        return read()
    if what not in session.catalog:
        session.catalog[what] = read()
    return cast(T, session.catalog[what])


def _tables(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier("pg_temp", name) for name in names)
