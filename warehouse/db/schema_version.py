"""Read which migrations a warehouse database has, without importing Alembic, which takes long."""

from functools import cache
from pathlib import Path

import psycopg

from warehouse.db.connections import OLDEST_SERVER, connect, format_version, without_password
from warehouse.db.time_zone import zone_of
from warehouse.errors import AccessRefused, SchemaOutdated, UnsuitableDatabase

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"


@cache
def newest() -> str:
    """Newest revision in this code: migrations are numbered, and their files named after the number."""
    return max(path.name[:4] for path in VERSIONS.glob("[0-9][0-9][0-9][0-9]_*.py"))


def revision_of(connection: psycopg.Connection) -> str | None:
    """Revision that the database is at; None before the first migration.

    Raises:
        AccessRefused: this user may not read it.
    """
    row = connection.execute(
        """
        select has_schema_privilege(namespace.oid, 'usage'), has_table_privilege(relation.oid, 'select')
        from pg_class as relation inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
        where namespace.nspname = 'public' and relation.relname = 'alembic_version'
        """
    ).fetchone()
    if row is None:
        return None
    for is_granted, right in zip(
        row, ("usage on schema public", "select on public.alembic_version"), strict=True
    ):
        if not is_granted:
            user = connection.info.user
            raise AccessRefused(
                f"User {user} may not read which revision the warehouse is at: {right} is not granted.",
                hint=f"Let the warehouse's owner run there: grant {right} to {user}.",
            )
    row = connection.execute("select version_num from public.alembic_version").fetchone()
    return row[0] if row else None


def ensure_suitable(connection: psycopg.Connection) -> None:
    """Refuse a database that cannot hold the warehouse, whatever its tables.

    Raises:
        UnsuitableDatabase: its server is too old, or its encoding is not UTF-8.
    """
    info = connection.info
    if info.server_version < OLDEST_SERVER:
        raise UnsuitableDatabase(
            f"The warehouse's server runs PostgreSQL {format_version(info.server_version)}; "
            f"{format_version(OLDEST_SERVER)} or newer is needed.",
            hint="Let DWH_WAREHOUSE_URL lead to a newer server; `dwh up` starts an embedded one if it is unset.",
        )
    if (encoding := info.parameter_status("server_encoding")) != "UTF8":
        raise UnsuitableDatabase(
            f"The warehouse's database {info.dbname} has the encoding {encoding}, which cannot hold all that sources "
            "and web logs hold.",
            hint="Create another and let DWH_WAREHOUSE_URL lead to it: create database NAME encoding 'UTF8' "
            "template template0; then run `dwh migrate`.",
        )


def ensure_migrated(url: str, time_zone: str | None = None) -> None:
    """Refuse a warehouse with other tables than this code was written for, or that counts days in another time zone.

    Raises:
        SchemaOutdated: it has no tables yet, older or newer migrations, or a zone other than `time_zone`.
        UnsuitableDatabase, AccessRefused: it can hold no warehouse, or may not be read.
    """
    with connect(url, autocommit=True) as connection:
        ensure_suitable(connection)
        revision = revision_of(connection)
        zone = zone_of(connection) if time_zone and revision == newest() else time_zone
    place = without_password(url)
    if zone != time_zone:
        raise SchemaOutdated(
            f"The warehouse {place} counts its days in time zone {zone}, and DWH_TIME_ZONE is {time_zone}.",
            hint="Run `dwh migrate` to change it, or unset DWH_TIME_ZONE here.",
        )
    if error := compare_revision(place, revision):
        raise error


def compare_revision(place: str, revision: str | None) -> SchemaOutdated | None:
    """Return an error if the warehouse at `place` has another `revision` than this code was written for, else None."""
    if revision == newest():
        return None
    if revision is None:
        return SchemaOutdated(f"The warehouse {place} has no tables yet.", hint="Run `dwh migrate`.")
    if revision > newest():
        return SchemaOutdated(
            f"The warehouse {place} is at revision {revision}; this code ends at {newest()}.",
            hint=f"Install the newer code; or, with it, `dwh migrate --to {newest()}`, which drops what came later.",
        )
    return SchemaOutdated(
        f"The warehouse {place} is at revision {revision}; this code needs {newest()}.",
        hint="Run `dwh migrate`.",
    )
