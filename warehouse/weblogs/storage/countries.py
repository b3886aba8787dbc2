"""Countries that a GeoIP database tells, as members of dwh.dim_country."""

from collections.abc import Iterable

import psycopg

from warehouse.geoip import GeoIp


def name_countries(
    connection: psycopg.Connection, countries: GeoIp, codes: Iterable[str], run_id: int
) -> None:
    """Add those of `codes` that ISO 3166 has not, by the names that the database has for them."""
    for code in codes:
        connection.execute(
            """
            insert into dwh.dim_country (country, name, run_id) values (%s, %s, %s)
            on conflict (country) do nothing
            """,
            [code, countries.names.get(code, "Unknown"), run_id],
        )
