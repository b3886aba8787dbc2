"""Countries of a GeoIP database as rows of dwh.dim_country."""

from collections.abc import Iterable

import psycopg

from warehouse.geoip import GeoIp


def name_countries(
    connection: psycopg.Connection, countries: GeoIp, codes: Iterable[str], run_id: int
) -> None:
    """Add the `codes` that ISO 3166 does not have, by their names in the GeoIP database."""
    for code in codes:
        connection.execute(
            """
            insert into dwh.dim_country (country, name, run_id) values (%s, %s, %s)
            on conflict (country) do nothing
            """,
            [code, countries.names.get(code, "Unknown"), run_id],
        )
