"""Errors of database connections: what they mean, what to do next, and which of them are worth a retry.

Only this module decides whether to try again.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from warehouse.db.roles import OWNER
from warehouse.errors import (
    AccessRefused,
    ConnectionFailed,
    DiskFull,
    TableMissing,
    UnsuitableDatabase,
    WarehouseError,
)

# Only in the warehouse's own schemas: tables that a user's conform SQL names elsewhere are not ours to create.
_MISSING_TABLE: Final = re.compile(r'relation "(dwh|mart|audit)\.')
# Connection lost or not yet possible, shutdown, idle or transaction timeout, too many connections, serialization,
# deadlock.
TRANSIENT_CLASSES: Final = (
    "08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300", "40001", "40P01",
)  # fmt: skip
# A connection that failed has no SQLSTATE: only its message distinguishes a refusal, which a retry would meet again,
# from a server that restarts. {setting} is where the URL comes from.
REFUSALS: Final = {
    r"does not support SSL|GSSAPI encryption required": "Turn TLS on at the server; or, where the way to it is "
    "safe, write sslmode=prefer in {setting}.",
    r"certificate|SSL error|tlsv1|channel binding": "sslrootcert=FILE in {setting} names the certificate to trust, "
    "sslcert=FILE and sslkey=FILE your own; sslmode=require encrypts without checking who answers.",
    r"pg_hba\.conf": "Let an administrator of the server allow this user, database and address in its pg_hba.conf; "
    "if it asks for encryption, write sslmode=require in {setting}.",
    r"database .* does not exist|no such database": "Correct the database's name in {setting}, or create it: "
    "create database NAME encoding 'UTF8' template template0.",
    r"not currently accepting connections|permission denied for database": "Let an administrator of the server "
    "allow connections to this database (grant connect on database NAME to USER), or correct {setting}.",
    r"password|authentication|role .* does not exist|no such user|not permitted to log in": "Correct user and "
    "password in {setting}.",
    r"definition of service|service file": "Correct the service's name in {setting}, or its definition in "
    "~/.pg_service.conf (elsewhere: PGSERVICEFILE).",
    r"unsupported startup parameter": "The connection pooler in between passes these on only if its configuration "
    "has them in ignore_startup_parameters: add them there, or take them out of {setting}.",
    r"configuration parameter|value for parameter": "Correct `options` in {setting}.",
    r"not known|No address associated": "Correct the name of the host in {setting}.",
    r"invalid |does not exist|permission denied|not allowed": "Correct {setting}.",
}
IS_IT_UP: Final = (
    "Is the server up, and are host and port in {setting} right? `dwh up` starts embedded databases."
)
_REASON: Final = re.compile(
    r"(?:- host: '(?P<host>[^']*)', port: '?(?P<port>[^',]*)'?(?:, hostaddr: '[^']*')?: )?"
    r"(?:connection (?:failed|is bad): )?(?:connection to server .*? failed: )?(?:FATAL: +)?(?P<reason>.*?)\.?$"
)


def connection_error(error: psycopg.Error, place: str, setting: str) -> WarehouseError:
    """Translate a failed connection to `place`: AccessRefused if a retry would fail again, else ConnectionFailed.

    If the URL has several hosts, the message has the reason of each; it is a refusal if all of them refuse.
    """
    text, _, by_host = str(error).partition("All failures were:\n")
    lines = [line for line in (by_host or text).splitlines() if line and not line.startswith("\t")]
    matches = [match for match in map(_REASON.match, lines) if match]
    reasons = list(dict.fromkeys(match["reason"] for match in matches))
    what = f"Cannot connect to {place}: {reasons[0] if reasons else type(error).__name__}."
    if len(reasons) > 1:
        named = dict.fromkeys(f"{match['host']}:{match['port']}: {match['reason']}" for match in matches)
        what = f"Cannot connect to {place}: {'; '.join(named)}."
    hints = [_hint_of_refusal(reason) for reason in reasons]
    if (refusals := [hint for hint in hints if hint]) and len(refusals) == len(hints):
        hint = " ".join(dict.fromkeys(refusals))
        return AccessRefused(what, hint=hint.replace("{setting}", setting))
    return ConnectionFailed(what, hint=IS_IT_UP.replace("{setting}", setting))


@contextmanager
def name_lost_connection(connection: psycopg.Connection, place: str) -> Iterator[None]:
    """Name the database in the error if the connection is lost within the block: libpq does not.

    Raises:
        ConnectionFailed: the connection was lost.
    """
    try:
        yield
    except psycopg.Error as error:
        if not connection.broken or not is_transient(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConnectionFailed(
            f"The connection to {place} was lost: {reason}.",
            hint="It is safe to run again. If it happens often, look for server restarts, failovers, idle timeouts, "
            "and at what stands in between, as a pooler, a proxy or a firewall.",
        ) from error


@contextmanager
def explain_limits(connection: psycopg.Connection, place: str) -> Iterator[None]:
    """Name the database in the error if its server cancels a statement of `connection`: by a limit or an operator.

    Raises:
        UnsuitableDatabase: a statement was cancelled within the block; the transaction can only be rolled back.
    """
    try:
        yield
    except (psycopg.errors.QueryCanceled, psycopg.errors.ConfigurationLimitExceeded) as error:
        # The block may use other connections: if the transaction of this one is intact, the statement was theirs.
        if connection.info.transaction_status is TransactionStatus.INTRANS:
            raise
        raise UnsuitableDatabase(
            f"{place} ended a statement: {error.diag.message_primary}.",
            hint="Run it again if somebody cancelled it; else raise the limit there for this user, as by alter role "
            "NAME set temp_file_limit = -1, or statement_timeout = 0.",
        ) from error


def is_transient(error: BaseException) -> bool:
    """Whether doing the same again may succeed: connection lost, server restarting, deadlock, serialization."""
    if isinstance(error, ConnectionFailed):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        # A lost connection has no SQLSTATE; during a COPY, it raises a plain DatabaseError.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or (
            type(error) is psycopg.DatabaseError
        )
    return error.sqlstate.startswith(TRANSIENT_CLASSES)


def is_of_statement(error: psycopg.Error) -> bool:
    """Whether the statement itself is wrong: not the connection or its server, nor somebody who cancelled it."""
    return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_transient(
        error
    )


def explain_missing(place: str, error: psycopg.errors.UndefinedTable) -> TableMissing | None:
    """Explain which table of the warehouse's own schemas does not exist, and how it comes back; None for any other."""
    message = error.diag.message_primary or ""
    if (missing := _MISSING_TABLE.match(message)) is None:
        return None
    hint = (
        f"Let a login that has role {OWNER} create it: `dwh rebuild --all` if it was a table, `dwh migrate` "
        "if it was a view."
    )
    if missing[1] == "audit":
        hint = (
            "The audit trail comes back with the whole warehouse only: restore the database from a backup, or point "
            "DWH_WAREHOUSE_URL at an empty one, then `dwh migrate` and `dwh rebuild --all`."
        )
    return TableMissing(
        f"{place} is not as it was migrated: {message}. The open transaction was rolled back.", hint=hint
    )


def explain_refusal(place: str, error: psycopg.errors.InsufficientPrivilege) -> AccessRefused:
    """Build the error for a privilege that the user at `place` does not have, with a hint who may do it."""
    return AccessRefused(
        f"{place} refuses its user: {error.diag.message_primary}. The open transaction was rolled back.",
        hint=f"`dwh doctor` names rights that are missing to roles that load. Let a login that has role {OWNER} run "
        "`dwh migrate`, which sets owners and grants, or run this itself.",
    )


@contextmanager
def explain_refusals(warehouse: str) -> Iterator[None]:
    """Translate refusals of the warehouse's server: no write, no privilege, or a dropped table. `warehouse` is its URL
    without the password.

    Raises:
        DiskFull: a disk of a server is full.
        AccessRefused: the warehouse is read only, or the login has not the rights.
        TableMissing: a table or view of the star, the marts or the audit trail does not exist.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise explain_refusal(warehouse, error) from error
    except psycopg.errors.UndefinedTable as error:
        if (missing := explain_missing(f"The warehouse {warehouse}", error)) is None:
            raise
        raise missing from error
    except psycopg.errors.DiskFull as error:
        raise DiskFull(
            f"The disk of the database server is full: {error.diag.message_primary}.",
            hint="Free some space (docs/runbook.md, 'The disk is full') and run again: its open transaction was "
            "rolled back.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise AccessRefused(
            f"The warehouse takes no writes: {error.diag.message_primary}.",
            hint="Is it a standby, or is default_transaction_read_only on, for all or for this user? "
            "Set it to off there once it is known why it is on.",
        ) from error


def _hint_of_refusal(reason: str) -> str | None:
    return next((hint for pattern, hint in REFUSALS.items() if re.search(pattern, reason)), None)
