"""Refuse connection poolers (such as PgBouncer) that do not give a session a server connection of its own."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import psycopg

from warehouse.errors import UnsuitableDatabase

# Concurrent transactions that find a shared server connection: a pooler hands out the one that became idle last, or the
# one that has been idle longest.
OTHERS: Final = 3

SESSION_MODE: Final = (
    "Let {setting} lead to the server itself, or to the pooler's session mode (PgBouncer: pool_mode=session for this "
    "database or user; hosted services: often port 5432 in place of 6543)."
)

_verified_urls: set[str] = set()


def ensure_own_server_connection(
    connection: psycopg.Connection, url: str, connect: Callable[[], psycopg.Connection]
) -> None:
    """Make sure that a pooler in between keeps the server connection of the idle `connection` for it alone.

    In transaction mode, another client (opened by `connect`) is given the same one. A URL is checked only once.

    Raises:
        UnsuitableDatabase: locks, temporary tables and settings would go to other clients.
    """
    if url in _verified_urls:
        return
    try:
        is_shared = _is_shared(connection, connect)
    except psycopg.OperationalError as error:
        refuse_statement_pooling(error, "DWH_WAREHOUSE_URL")
        raise
    if is_shared:
        raise UnsuitableDatabase(
            "The connection pooler before the warehouse works in transaction mode: between two transactions it gives "
            "our server connection, and with it our locks and temporary tables, to other clients.",
            hint=SESSION_MODE.format(setting="DWH_WAREHOUSE_URL"),
        )
    _verified_urls.add(url)


def refuse_statement_pooling(error: psycopg.OperationalError, setting: str) -> None:
    """Raise an error with a hint if `error` is a pooler's refusal of a transaction.

    Raises:
        UnsuitableDatabase: the pooler works in statement mode.
    """
    if "statement pooling mode" in str(error):
        raise UnsuitableDatabase(
            f"The connection pooler that {setting} leads to works in statement mode: it allows no transactions.",
            hint=SESSION_MODE.format(setting=setting),
        ) from None


def _is_shared(connection: psycopg.Connection, connect: Callable[[], psycopg.Connection]) -> bool:
    ours = server_process(connection)
    with ExitStack() as others:
        for _ in range(OTHERS):
            other = others.enter_context(connect())
            # An open transaction keeps its server connection.
            others.enter_context(other.transaction())
            if server_process(other) == ours or server_process(connection) != ours:
                return True
    return False


def server_process(connection: psycopg.Connection) -> int:
    """Process id of the server connection; a direct connection's never changes."""
    # Never as a prepared statement: another server connection would not have it.
    row = connection.execute("select pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])
