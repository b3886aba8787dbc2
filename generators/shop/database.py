"""Connect to the shop's database and create its schema; errors say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from generators.errors import GeneratorError

IN_UTC = "set local time zone 'UTC'"
SCHEMA = Path(__file__).with_name("schema.sql")


@contextmanager
def connect(url: str, *, autocommit: bool = False) -> Iterator[psycopg.Connection]:
    """Connect to the shop, in one transaction in UTC unless autocommit; GeneratorError if it cannot be used.

    A pooler may share the connection with the shop's own clients: settings end with the transaction.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=autocommit,
            application_name="dwh-generator",
            connect_timeout=10,
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise GeneratorError(
            f"The shop database {_place(url)} cannot be reached ({_reason(error, url)}).",
            "Start it (`dwh up`) or correct DWH_SHOP_URL.",
        ) from None
    try:
        with connection:
            if not autocommit:
                connection.execute(IN_UTC)
            yield connection
    except psycopg.errors.UndefinedTable as error:
        raise GeneratorError(
            f"The shop database {_place(url)} lacks a table: {error.diag.message_primary}.",
            "Create its schema first: `dwh generate shop`.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise GeneratorError(
            f"The shop database {_place(url)} refuses: {error.diag.message_primary}.",
            "Use the owner of the shop's tables in DWH_SHOP_URL.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise GeneratorError(
            f"The shop database {_place(url)} takes no writes ({_reason(error, url)}).",
            "Is it a standby, or is default_transaction_read_only on, for all or for this user?",
        ) from error
    # Transaction timeouts of PostgreSQL are InternalErrors in psycopg.
    except (psycopg.OperationalError, psycopg.InternalError) as error:
        raise GeneratorError(
            f"The shop database {_place(url)} gave up ({_reason(error, url)}).",
            "Look at its log, its disk and the limits of this user, as statement_timeout and temp_file_limit; then run "
            "the command again.",
        ) from error


def create_schema(url: str) -> None:
    """Create the shop's tables, indexes, triggers and comments that are missing; data stays as it is."""
    with connect(url) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('shop schema'))")
        connection.execute("set local client_min_messages = warning")
        connection.execute(SCHEMA.read_bytes())


def _place(url: str) -> str:
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return "(the URL cannot be read)"
    return f"{parts.get('dbname') or '?'} at {parts.get('host') or 'localhost'}:{parts.get('port') or 5432}"


def _reason(error: psycopg.Error, url: str) -> str:
    try:
        password = psycopg.conninfo.conninfo_to_dict(url).get("password")
    except psycopg.Error:
        return "not a PostgreSQL URL"
    text = str(error).splitlines()[0].strip() if str(error) else type(error).__name__
    return text.replace(str(password), "***") if password else text
