"""Connections to PostgreSQL, all with the same session settings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from warehouse.db.identifiers import listed
from warehouse.errors import AccessRefused, ConnectionFailed, DiskFull, SettingsError

# Cursors, row hashes and drift compare the text of timestamps, floats and types: it must not depend on a server's
# settings. Timeouts meant for people must not end a run, nor may a role's isolation level hide what committed while it
# waited.
SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "lc_monetary": "C",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "row_security": "on",
    "quote_all_identifiers": "off",
    "default_transaction_isolation": "read committed",
    # A session whose client was killed ends in the middle of a statement, and its locks with it.
    "client_connection_check_interval": "2s",
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
# A failed connection has no SQLSTATE: only the message distinguishes a wrong URL from a server that restarts.
REFUSALS = (
    "authentication failed",
    "does not exist",
    "invalid ",
    "no password supplied",
    "not known",
    "permission denied",
    "pg_hba.conf",
)
# Connection lost or not yet possible, shut down, idle or at work for too long, too many connections, serialization,
# deadlock.
TRANSIENT_CLASSES = (
    "08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300", "40001", "40P01",
)  # fmt: skip


def connect(url: str, *, autocommit: bool = False, application_name: str = "dwh") -> psycopg.Connection:
    """Connection with the session settings that every reader and writer shares.

    Raises:
        ConnectionFailed: the server cannot be reached or refuses; the message carries no password.
    """
    try:
        connection = psycopg.connect(url, autocommit=autocommit, application_name=application_name)
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0].rpartition(" failed: ")[2].rstrip(".")
        what = f"Cannot connect to {without_password(url)}: {reason}."
        if any(sign in reason for sign in REFUSALS):
            hint = "Correct the URL, or the privileges of its user (`dwh doctor`)."
            raise AccessRefused(what, hint=hint) from None
        raise ConnectionFailed(
            what, hint="Is the server up (`dwh status`), and is the URL right (`dwh doctor`)?"
        ) from None
    except psycopg.ProgrammingError:
        raise SettingsError(
            "A database URL cannot be understood.",
            hint="It should read postgresql://user:password@host:port/database.",
        ) from None
    settings = ", ".join(f"('{name}', '{value}')" for name, value in SESSION.items())
    # Older servers lack some of them, and only on Linux does a server reliably notice that a client has gone.
    connection.execute(
        f"select set_config(name, value, false) from (values {settings}) as setting (name, value) "
        "where current_setting(name, true) is not null "
        "and (name <> 'client_connection_check_interval' or version() ~ 'linux')".encode()
    )
    if not autocommit:
        connection.commit()
    return connection


def analyze_briefly(
    connection: psycopg.Connection, table: sql.Composable, columns: Sequence[str] = ()
) -> None:
    """Analyze a table that lives for one run: a tenth of the usual sample is enough to plan its joins."""
    connection.execute(
        sql.SQL(
            "set local default_statistics_target = 10; analyze {}{}; set local default_statistics_target to default"
        ).format(table, sql.SQL(" ({})").format(listed(columns)) if columns else sql.SQL(""))
    )


def is_transient(error: BaseException) -> bool:
    """Whether doing the same again may succeed: connection lost, server restarting, deadlock, serialization."""
    if isinstance(error, ConnectionFailed):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # A connection that breaks in the middle has no SQLSTATE.
    return error.sqlstate is None or error.sqlstate.startswith(TRANSIENT_CLASSES)


@contextmanager
def explain_unwritable() -> Iterator[None]:
    """Translate the errors of a server that is full or read only.

    Raises:
        DiskFull: a disk of a server is full.
        AccessRefused: the warehouse is read only.
    """
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise DiskFull(
            f"The disk of the database server is full: {error.diag.message_primary}.",
            hint="Free some space (docs/runbook.md, 'The disk is full') and run again: nothing of it was published.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise AccessRefused(
            f"The warehouse takes no writes: {error.diag.message_primary}.",
            hint="Is it a standby, or is default_transaction_read_only on, for all or for this user? "
            "Set it to off there once it is known why it is on.",
        ) from error


def without_password(url: str) -> str:
    """The URL without its password, for messages: user, host, port and database."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return urlsplit(url).scheme + "://…"
    host, port = parts.get("host", "localhost"), parts.get("port", 5432)
    return f"postgresql://{parts.get('user', '')}@{host}:{port}/{parts.get('dbname', '')}"
