"""Connections to PostgreSQL: sessions in the warehouse, and read-only transactions in sources.

Every connection of the warehouse's code is made here, from a URL or connection string of libpq.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, urlsplit
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from warehouse.db.connection_errors import connection_error, explain_limits, name_lost_connection
from warehouse.db.identifiers import listed
from warehouse.db.poolers import ensure_own_server_connection, refuse_statement_pooling
from warehouse.errors import AccessRefused, ConnectionFailed, SettingsError, UnsuitableDatabase

# Cursors, row hashes and drift compare the text of timestamps, floats and types: it must not depend on a server's
# settings, nor must the meaning of SQL (as of '\d' in a pattern). Timeouts meant for people must not end a run, and a
# role's isolation level must not hide what was committed while the run waited.
SETTINGS: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "lc_monetary": "C",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    # Ends the session of a killed client, with its locks, even in the middle of a statement.
    "client_connection_check_interval": "2s",
    # Ends it after two minutes if the client's machine or the network is gone, which nothing else says.
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    **dict.fromkeys(
        (
            "statement_timeout",
            "lock_timeout",
            "transaction_timeout",
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
        ),
        "0",
    ),
}
# off: a query fails where a row-level policy would hide rows, also behind a view, where nothing else shows the policy.
SOURCE_SETTINGS: Final = SETTINGS | {"row_security": "off"}
# The search path decides how PostgreSQL spells names of tables and types: a role's own must not change that. Triggers
# must fire, since they fill the change log.
WAREHOUSE_SETTINGS: Final = SETTINGS | {
    "row_security": "on",
    "search_path": "public",
    "session_replication_role": "origin",
}
# Older servers do not have all settings, a server reliably notices a client's end only on Linux, and some settings may
# be changed by superusers only.
_IS_KNOWN: Final = (
    "current_setting(name, true) is not null "
    "and (name <> 'client_connection_check_interval' or version() ~ 'linux') "
    "and (name <> 'session_replication_role' or current_setting(name) <> value)"
)
# Type money is stored as a number of the smallest units of the database's currency. Under lc_monetary = C these are
# hundredths: amounts in yen, dinars and others would be read wrongly.
IS_MONEY_HELD_IN_CENTS: Final = "cash_send('1'::money) = int8send(100)"
# Oldest supported versions, as in server_version_num: of the warehouse's server, and of a source's.
OLDEST_SERVER: Final = 160000
OLDEST_SOURCE: Final = 130000
WAREHOUSE_URL: Final = "DWH_WAREHOUSE_URL"
# The same for a server that is gone, as after a failover; a URL may say otherwise.
_KEEPALIVES: Final[dict[str, Any]] = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}

# The sessions of this process in warehouses: to find those that wait for a lock.
_sessions: WeakSet[psycopg.Connection] = WeakSet()
_sessions_lock = Lock()


def connect(
    url: str, *, autocommit: bool = False, application_name: str = "dwh", setting: str = WAREHOUSE_URL
) -> psycopg.Connection:
    """Open a session in the warehouse, with the settings that every reader and writer shares.

    `setting` names the setting that the URL comes from, for messages.

    Raises:
        ConnectionFailed: the server cannot be reached; the message carries no password.
        AccessRefused: it refuses.
        UnsuitableDatabase: a pooler in between does not give a client a server connection of its own.
    """
    connection = _open(url, setting, application_name=application_name)
    set_here = f"select set_config(name, value, false) from {_values(WAREHOUSE_SETTINGS)} where {_IS_KNOWN}"
    # A pooler gives its client a process id of its own, not that of the server's process.
    is_direct = f"pg_backend_pid() = {connection.info.backend_pid}"
    try:
        if connection.execute(f"{set_here} and {is_direct}".encode()).rowcount == 0:
            ensure_own_server_connection(
                connection, url, lambda: _open(url, setting, application_name="dwh pooler check")
            )
            connection.execute(set_here.encode())
    except BaseException:
        connection.close()
        raise
    connection.autocommit = autocommit
    with _sessions_lock:
        _sessions.add(connection)
    return connection


def own_server_processes() -> list[int]:
    """Return the server process ids of the sessions that this process has in warehouses."""
    with _sessions_lock:
        return [one.info.backend_pid for one in _sessions if not one.closed]


def cancel_own(pid: int) -> None:
    """Cancel the statement of this process's own session with server process id `pid`, if it is still open.

    The protocol's cancel request is used, since pg_cancel_backend needs rights of the login, which a session that acts
    as a role does not have.
    """
    with _sessions_lock:
        sessions = [one for one in _sessions if not one.closed and one.info.backend_pid == pid]
    for session in sessions:
        session.cancel_safe()


@contextmanager
def read_only_transaction(
    source: str,
    url: str,
    *,
    application_name: str,
    isolation: psycopg.IsolationLevel = psycopg.IsolationLevel.READ_COMMITTED,
) -> Iterator[psycopg.Connection]:
    """Begin a read-only transaction in the database of `source`, which has taken no snapshot yet.

    A pooler may give the server connection to the source's own clients afterwards, so nothing outlives the transaction:
    settings are local to it, and no statement is prepared. Start no other transaction on it.

    Raises:
        ConnectionFailed: the server cannot be reached; the message carries no password.
        AccessRefused: it refuses.
        UnsuitableDatabase: the server is too old, or a pooler in between allows no transactions.
    """
    with connect_source(source, url, application_name=application_name) as connection:
        place = f"source '{source}' ({without_password(url)})"
        with name_lost_connection(connection, place), explain_limits(connection, place):
            statements = transaction_settings(connection)
            connection.autocommit = False
            connection.isolation_level = isolation
            connection.read_only = True
            try:
                connection.execute(statements)
            except psycopg.OperationalError as error:
                refuse_statement_pooling(error, _setting(source))
                raise
            yield connection


def connect_source(source: str, url: str, *, application_name: str) -> psycopg.Connection:
    """Open an autocommit connection to the database of `source`, without any settings or prepared statements.

    Raises:
        ConnectionFailed, AccessRefused, UnsuitableDatabase: as `read_only_transaction`.
    """
    try:
        connection = _open(url, _setting(source), application_name=application_name, prepare_threshold=None)
    except (ConnectionFailed, AccessRefused) as error:
        raise type(error)(f"Source '{source}': {error.what}", hint=error.hint) from None
    if (version := connection.info.server_version) < OLDEST_SOURCE:
        connection.close()
        raise UnsuitableDatabase(
            f"Source '{source}' runs PostgreSQL {format_version(version)}; "
            f"{format_version(OLDEST_SOURCE)} or newer is needed.",
            hint="Upgrade it: older servers cannot tell which transactions a snapshot saw.",
        )
    return connection


def transaction_settings(connection: psycopg.Connection) -> sql.Composed:
    """Return statements (`set local`) for the settings that every reader of a source shares.

    Call this before the transaction: in it, the query would take its snapshot.
    """
    settings = connection.execute(
        f"select name, case when {IS_MONEY_HELD_IN_CENTS} or name <> 'lc_monetary' then value "
        f"else current_setting(name) end from {_values(SOURCE_SETTINGS)} where {_IS_KNOWN}".encode()
    )
    return sql.SQL("; ").join(
        sql.SQL("set local {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in settings.fetchall()
    )


def _setting(source: str) -> str:
    return f"DWH_{source.upper()}_URL"


def analyze_briefly(
    connection: psycopg.Connection, table: sql.Composable, columns: Sequence[str] = ()
) -> None:
    """Analyze a table that lives for one run: a tenth of the usual sample is enough to plan its joins."""
    connection.execute(
        sql.SQL(
            "set local default_statistics_target = 10; analyze {}{}; set local default_statistics_target to default"
        ).format(table, sql.SQL(" ({})").format(listed(columns)) if columns else sql.SQL(""))
    )


def format_version(number: int) -> str:
    """Format a version of PostgreSQL as people write it: 160004 is 16.4."""
    return f"{number // 10000}.{number % 10000}".removesuffix(".0")


def without_password(url: str) -> str:
    """Format a URL without its password, for messages: user, hosts, ports and database, or the service's name."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return urlsplit(url).scheme + "://…"
    if "service" in given:
        return f"service {given['service']}"
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.get_defaults()
        if option.val is not None
    }
    parts = {"host": "localhost", "user": "", "dbname": "", **defaults, **given}
    hosts = str(parts["host"]).split(",")
    ports = str(parts["port"]).split(",")
    # One port for all hosts, or one for each.
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [f"{quote(host, safe='')}:{port or 5432}" for host, port in zip(hosts, ports, strict=False)]
    return f"postgresql://{parts['user']}@{','.join(places)}/{parts['dbname']}"


def _open(url: str, setting: str, **options: Any) -> psycopg.Connection:
    """Open an autocommit connection without any settings."""
    try:
        conninfo = make_conninfo("", **_KEEPALIVES | conninfo_to_dict(url))
        return psycopg.connect(conninfo, autocommit=True, client_encoding="UTF8", **options)
    except psycopg.OperationalError as error:
        raise connection_error(error, without_password(url), setting) from None
    except psycopg.ProgrammingError:
        raise SettingsError(
            f"{setting} cannot be understood.",
            hint="It should read postgresql://user:password@host:port/database, with %40 for an @ in the password; "
            "or be a connection string of libpq (host=… dbname=…, or service=…).",
        ) from None


def _values(settings: Mapping[str, str]) -> str:
    rows = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return f"(values {rows}) as setting (name, value)"
