"""Alembic migrations: the only place with DDL of the warehouse database."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from warehouse.db.connections import connect, explain_unwritable
from warehouse.db.locks import session_lock
from warehouse.migrations import feed, rights

FOLDER = Path(__file__).parent


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the warehouse database up to `revision`; two at once wait for each other."""
    _migrate(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Take the warehouse database back to `revision` ('base': an empty database)."""
    _migrate(url, lambda config: command.downgrade(config, revision))


def current(url: str) -> str | None:
    """Revision that the database is at; None before the first migration."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Newest revision in this code."""
    revision = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert revision is not None
    return revision


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _migrate(url: str, run: Callable[[Config], None]) -> None:
    with (
        explain_unwritable(),
        connect(url, autocommit=True, application_name="dwh migrate") as guard,
        session_lock(guard, "migrate", wait_seconds=120),
    ):
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
        with engine.begin() as connection:
            run(_config(connection))
            feed.apply(connection)
            rights.apply(connection)
