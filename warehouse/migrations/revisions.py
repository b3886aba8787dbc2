"""Bring the warehouse's database to a revision, up or down, in one transaction with what is declared in files."""

import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from warehouse.db.connection_errors import explain_refusals
from warehouse.db.connections import connect, without_password
from warehouse.db.lock_holder import LockHolder, find_longest_user
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.db.roles import LOADER, OWNER, apply_grants
from warehouse.db.schema_objects import BLOCKED, SchemaObjects
from warehouse.db.schema_version import ensure_suitable
from warehouse.errors import AccessRefused, DeclarationError, LockHeld, SchemaObjectInUse, WrongParameters
from warehouse.history.change_log import STAR_LOCK
from warehouse.migrations import declared, foreign_keys
from warehouse.migrations.privileges import LOCK_TIMEOUT, LOCKED, MIGRATE_LOCK, ensure_may_migrate
from warehouse.migrations.sql import driver_of
from warehouse.model.schema import TABLES

FOLDER = Path(__file__).parent
LOCK_PATIENCE_SECONDS, LOCK_PAUSE_SECONDS = 60.0, 1.0
# Roles belong to the whole server: a role, grant or database that somebody else changes or drops at the same moment is
# no longer found where PostgreSQL looks it up ("tuple concurrently updated", "cache lookup failed").
_CHANGED_MEANWHILE = psycopg.errors.InternalError_
_CHANGES_PATIENCE_SECONDS = 10.0
# A migration that takes longer belongs into batches of its own.
STATEMENT_TIMEOUT = "30min"


def upgrade(
    url: str,
    revision: str = "head",
    *,
    time_zone: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Bring the warehouse database up to `revision`; two at once wait for each other.

    `time_zone` is the one to count days in from now on; by default as it is, UTC at first. `progress` is called with
    each migration of a warehouse that exists as it begins: of one with many rows they take minutes.

    What is declared in files belongs to the newest revision: below it, views and functions stay as they are. Returns
    what of it was found otherwise, and set right, in a database that was at the newest revision already.

    Raises:
        SchemaObjectInUse: a user's own view depends on one that has to be dropped; nothing was changed.
        LockHeld: what is to be changed is in use; nothing was changed.
    """

    found: list[str] = []
    # Each is announced once, however often the transaction is tried again.
    announced: set[str] = set()

    def announce(message: str) -> None:
        if message not in announced:
            announced.add(message)
            progress(message)

    def run(connection: Connection) -> None:
        found.clear()
        driver = driver_of(connection)
        objects = SchemaObjects(driver)
        is_empty = _current(connection) is None
        if steps := _steps(connection, revision):
            transaction_lock(driver, STAR_LOCK)
            objects.lock()
        for step in steps:
            if not is_empty:
                title = step.doc.partition("\n")[0].strip().rstrip(".")
                announce(f"migration {step.revision}: {title}")
            _upgrade_by_one(connection, objects, step.revision)
        if _current(connection) == head():
            if is_empty:
                _ensure_migrated(driver)
            elif steps:
                announce("views, functions, comments and grants")
            if not steps:
                found.extend(declared.differences(driver, time_zone))
            declared.apply(driver, objects, time_zone)

    _in_transaction(url, run, progress)
    return found


def _ensure_migrated(connection: psycopg.Connection) -> None:
    """Ensure that all migrations together have created what is declared: the database was empty.

    Raises:
        DeclarationError: no migration creates one of the tables.
    """
    names = [str(table) for table in TABLES]
    missing = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(name) is null", [names]
    ).fetchall()
    if missing:
        raise DeclarationError(
            f"No migration creates {', '.join(name for (name,) in missing)}, which warehouse/model/star.py declares.",
            hint="Take the declaration out, run `dwh migrate`, put it back, and let `dwh migrate --new TITLE` write "
            "the migration: it compares with a database that is migrated. Nothing was changed.",
        )


def downgrade(url: str, revision: str, *, progress: Callable[[str], None] = lambda _: None) -> None:
    """Take the warehouse database back to `revision` ('base': an empty database).

    Views and functions are dropped: those of `revision` are created by its own code's `dwh migrate`.

    Raises:
        SchemaObjectInUse: a user's own view depends on one of them; nothing was changed.
    """

    def run(connection: Connection) -> None:
        driver = driver_of(connection)
        transaction_lock(driver, STAR_LOCK)
        # The baseline has them in its own SQL.
        if driver.execute("select to_regclass('audit.schema_object')").fetchone() != (None,):
            declared.drop(driver)
        command.downgrade(_config(connection), revision)

    _in_transaction(url, run, progress)


def current(url: str) -> str | None:
    """Revision that the database is at; None before the first migration."""
    with _engine(url).connect() as connection:
        return _current(connection)


def head() -> str:
    """Newest revision in this code."""
    revision = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert revision is not None
    return revision


def ensure_known(revision: str) -> None:
    """Refuse a revision that is not one of this code's.

    Raises:
        WrongParameters: it is neither a number of a migration nor 'head' or 'base'.
    """
    scripts = ScriptDirectory.from_config(_config(None))
    known = sorted(script.revision for script in scripts.walk_revisions())
    if revision not in ("base", "head", *known):
        raise WrongParameters(
            f"There is no revision {revision}.", hint=f"This code knows base, {', '.join(known)} (head)."
        )


def _upgrade_by_one(connection: Connection, objects: SchemaObjects, revision: str) -> None:
    """Run one migration; where views or functions are in its way, drop them first."""
    try:
        with connection.begin_nested():
            command.upgrade(_config(connection), revision)
    except DBAPIError as error:
        if not isinstance(error.orig, BLOCKED):
            raise
        objects.drop_all()
        foreign_keys.drop(driver_of(connection))
        try:
            with connection.begin_nested():
                command.upgrade(_config(connection), revision)
        except DBAPIError as second:
            if not isinstance(second.orig, BLOCKED):
                raise
            raise _in_use(objects, revision, second.orig) from second


def _in_use(objects: SchemaObjects, revision: str, error: psycopg.Error) -> SchemaObjectInUse:
    users = ", ".join(objects.users_objects()) or "what is named there"
    return SchemaObjectInUse(
        f"Migration {revision} changes what a view that is not the warehouse's own depends on: "
        f"{error.diag.message_primary}: {error.diag.message_detail}. Nothing was changed.",
        hint=f"Drop {users}, run `dwh migrate`, and create it again.",
    )


def _steps(connection: Connection, revision: str) -> list[Script]:
    """Migrations between the database's and `revision`, in the order in which they are to run."""
    scripts = ScriptDirectory.from_config(_config(None))
    steps = scripts.iterate_revisions(revision, _current(connection) or "base")
    return list(steps)[::-1]


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, application_name="dwh migrate"),
        poolclass=NullPool,
    )


def _in_transaction(
    url: str, run: Callable[[Connection], None], progress: Callable[[str], None] = lambda _: None
) -> None:
    with (
        explain_refusals(without_password(url)),
        connect(url, autocommit=True, application_name="dwh migrate") as guard,
        session_lock(guard, MIGRATE_LOCK, wait_seconds=120),
    ):
        ensure_suitable(guard)
        ensure_may_migrate(guard, url)
        began_at = time.monotonic()
        named: set[str] = set()
        while True:
            try:
                with _engine(url).begin() as connection:
                    connection.exec_driver_sql(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                    connection.exec_driver_sql(f"set local statement_timeout = '{STATEMENT_TIMEOUT}'")
                    run(connection)
                    apply_grants(driver_of(connection))
                    return
            except (DBAPIError, psycopg.Error) as error:
                cause = error.orig if isinstance(error, DBAPIError) else error
                assert isinstance(cause, psycopg.Error)
                is_locked = isinstance(cause, LOCKED)
                user = find_longest_user(guard) if is_locked else None
                patience = LOCK_PATIENCE_SECONDS if is_locked else _CHANGES_PATIENCE_SECONDS
                is_passing = is_locked or isinstance(cause, _CHANGED_MEANWHILE)
                if not is_passing or time.monotonic() - began_at > patience:
                    explained = _explained(cause, url, user)
                    # Not its own cause's cause: whoever follows the causes would not come to an end.
                    raise explained from (None if explained is cause else error)
                if user is not None and user.ending not in named:
                    named.add(user.ending)
                    progress(
                        f"waiting up to {LOCK_PATIENCE_SECONDS:.0f} s for what the migration changes: longest "
                        f"in use is {user.relation}, by {user}"
                    )
            # All of it was rolled back: whoever has queued up behind it goes on meanwhile.
            time.sleep(LOCK_PAUSE_SECONDS)


def _explained(error: psycopg.Error, url: str, user: LockHolder | None) -> Exception:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return AccessRefused(
            f"The warehouse {without_password(url)} cannot be migrated: {error.diag.message_primary}. "
            "Nothing was changed.",
            hint="Let the owner of what is named there, or an administrator of the server, run `dwh migrate`, or "
            f"grant its roles to this login: grant {OWNER}, {LOADER} to …",
        )
    if isinstance(error, LOCKED):
        return LockHeld(
            f"A table or view that the migration changes has been in use for {LOCK_PATIENCE_SECONDS:.0f} seconds. "
            + (f"Longest in use is {user.relation}, by {user}. " if user else "")
            + "Nothing was changed.",
            hint="Run `dwh migrate` again when no run or long query is using it: pg_stat_activity lists them."
            + (f' This one is ended by: dwh psql -- -c "{user.ending}"' if user else ""),
        )
    return error
