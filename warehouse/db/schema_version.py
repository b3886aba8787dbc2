"""Which migrations a warehouse database has, read without the weight of Alembic."""

from functools import cache
from pathlib import Path

import psycopg

from warehouse.db.connections import connect, without_password
from warehouse.errors import SchemaOutdated

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"


@cache
def newest() -> str:
    """Newest revision in this code: migrations are numbered, and their files named after the number."""
    return max(path.name[:4] for path in VERSIONS.glob("[0-9][0-9][0-9][0-9]_*.py"))


def revision_of(connection: psycopg.Connection) -> str | None:
    """Revision that the database is at; None before the first migration."""
    row = connection.execute("select to_regclass('public.alembic_version')").fetchone()
    if row is None or row[0] is None:
        return None
    row = connection.execute("select version_num from public.alembic_version").fetchone()
    return row[0] if row else None


def ensure_migrated(url: str) -> None:
    """Refuse a warehouse whose tables are not those that this code was written for.

    Raises:
        SchemaOutdated: it has no tables yet, or lacks migrations, or has newer ones.
    """
    with connect(url, autocommit=True) as connection:
        revision = revision_of(connection)
    if revision == newest():
        return
    place = without_password(url)
    if revision is None:
        raise SchemaOutdated(f"The warehouse {place} has no tables yet.", hint="Run `dwh migrate`.")
    if revision > newest():
        raise SchemaOutdated(
            f"The warehouse {place} is at revision {revision}; this code ends at {newest()}.",
            hint="Run newer code, or `dwh migrate --to` a revision that this code knows, from that newer code.",
        )
    raise SchemaOutdated(
        f"The warehouse {place} is at revision {revision}; this code needs {newest()}.",
        hint="Run `dwh migrate`.",
    )
