"""SQL of migrations."""

from typing import cast

import psycopg
from alembic import op
from sqlalchemy import Connection


def execute(statement: str) -> None:
    """Execute SQL as it stands: colons and percent signs in it are text, not parameters."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))


def driver_of(connection: Connection) -> psycopg.Connection:
    """The connection beneath SQLAlchemy's, in the same transaction."""
    # Begins it, where nothing was executed yet.
    connection.exec_driver_sql("select")
    return cast(psycopg.Connection, connection.connection.driver_connection)
