"""The company's time zone: SQL functions for the local time and day of a timestamp, for psql and BI tools too.

The zone is a literal in them, so that the planner can inline them; `dwh migrate` replaces them when it changes.
"""

from typing import Final
from zoneinfo import ZoneInfo

import psycopg

from warehouse.db.object_files import SchemaObject
from warehouse.errors import DeclarationError, SettingsError

DEFAULT: Final = "UTC"
SCHEMA: Final = "mart"


def zone_functions(zone: str) -> list[SchemaObject]:
    """Declare the functions for the zone's name, and for the local time and day of a timestamp."""
    name = "'" + zone.replace("'", "''") + "'"
    return [
        SchemaObject(
            "function", SCHEMA, function, f"{signature} language sql stable parallel safe return {value}"
        )
        for function, signature, value in (
            ("time_zone", "() returns text", f"{name}::text"),
            ("local_time", "(moment timestamptz) returns timestamp", f"moment at time zone {name}"),
            ("local_date", "(moment timestamptz) returns date", f"(moment at time zone {name})::date"),
        )
    ]


def zone_of(connection: psycopg.Connection) -> str:
    """Name of the zone that the warehouse counts its days in."""
    (function,) = connection.execute("select to_regproc('mart.time_zone')").fetchone() or (None,)
    if function is None:
        return DEFAULT
    (zone,) = connection.execute("select mart.time_zone()").fetchone() or (DEFAULT,)
    return str(zone)


def declared_zone(name: str) -> ZoneInfo:
    """Return the zone of this name in a declaration of files.

    Raises:
        DeclarationError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise DeclarationError(
            f"There is no time zone '{name}'.", hint="As in the tz database: Europe/Berlin, UTC."
        ) from None


def ensure_zone_exists(connection: psycopg.Connection, zone: str) -> None:
    """Refuse a zone that the database server does not know.

    Raises:
        SettingsError: it is not in pg_timezone_names.
    """
    if not connection.execute("select from pg_timezone_names where name = %s", [zone]).rowcount:
        raise SettingsError(
            f"DWH_TIME_ZONE: the warehouse's server knows no time zone '{zone}'.",
            hint="`select name from pg_timezone_names` lists those that it knows.",
        )
