"""Re-classification: moves requests, month by month, to the country that a newer GeoIP database has."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

import numpy as np
import psycopg
from psycopg import sql

from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.geoip import GeoIp
from warehouse.runs.audit import Load, Run, add_parameters, mark_irreversible, record_load
from warehouse.settings import Settings
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING
from warehouse.weblogs.reader.parse import split_lines
from warehouse.weblogs.storage.aggregate_tables import drop_zeros, move_countries, recount_users
from warehouse.weblogs.storage.countries import name_countries
from warehouse.weblogs.storage.partitions import Partitions

QUERIES = Path(__file__).with_name("queries")
_BLOCK_BYTES = 4 << 20
# Length of "BR\t", which precedes each address.
_CODE = 3


@dataclass(frozen=True)
class Reclassified:
    """Months that were re-classified, months that were up to date before, and requests that moved."""

    database: str
    months: int
    months_before: int
    rows_moved: int
    seconds: float

    def __str__(self) -> str:
        text = f"{self.rows_moved:,} requests of {self.months:,} months moved to another country"
        before = f"; {self.months_before:,} months were done before" if self.months_before else ""
        return f"{self.database} → dwh.fact_weblog: {text}{before} in {self.seconds:.2f} s"


def reclassify(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[date, int, int, int], None] | None = None,
    wait_seconds: float = 900,
) -> Reclassified:
    """Look up the countries of all requests again in the GeoIP database of the settings.

    A month is a transaction, recorded in audit.weblog_month: the next run resumes one that died. Loads can run between
    two months. `progress` gets the month, its number, the number of months, and its requests that moved.

    Raises:
        GeoIpError: there is no such database.
        LockHeld: a load of web logs does not end within `wait_seconds`.
    """
    started = time.perf_counter()
    countries = geoip.read(geoip.path_of(settings))
    add_parameters(run, geoip=str(countries))
    with connect(
        run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: countries"
    ) as connection:
        connection.execute("select set_config('dwh.run_id', %s, false)", [str(run.run_id)])
        all_months = _months(connection)
        months = _pending(connection, countries)
        moved = 0
        for number, month in enumerate(months, start=1):
            with session_lock(connection, FEED, wait_seconds=wait_seconds):
                count = _reclassify_month(connection, run, countries, month)
            moved += count
            if progress is not None:
                progress(month, number, len(months), count)
        with session_lock(connection, FEED, wait_seconds=wait_seconds), connection.transaction():
            recount_users(connection)
            drop_zeros(connection)
    seconds = time.perf_counter() - started
    return Reclassified(str(countries), len(months), len(all_months) - len(months), moved, seconds)


def _months(connection: psycopg.Connection) -> list[date]:
    rows = connection.execute(
        """
        select distinct date_trunc('month', request_date)::date from dwh.agg_weblog_day
        where request_count > 0 order by 1
        """
    )
    return [month for (month,) in rows]


def _pending(connection: psycopg.Connection, countries: GeoIp) -> list[date]:
    """Months with requests whose countries may come from another database."""
    rows = connection.execute(
        """
        with other_database as (
            select max(loaded_at) as loaded_at
            from audit.load
            where source = %(feed)s and rows_inserted > 0
                and (geoip_database, geoip_built_at) is distinct from (%(name)s::text, %(built)s::timestamptz)
        )
        select done.request_month
        from audit.weblog_month as done, other_database
        where (done.geoip_database, done.geoip_built_at) is not distinct from (%(name)s, %(built)s)
            and (other_database.loaded_at is null or done.classified_at > other_database.loaded_at)
        """,
        {"feed": FEED, "name": countries.database_type, "built": countries.built_at},
    )
    done = {month for (month,) in rows}
    return [month for month in _months(connection) if month not in done]


def _reclassify_month(connection: psycopg.Connection, run: Run, countries: GeoIp, month: date) -> int:
    """Move the requests of a month whose country has changed; returns their number."""
    started = time.perf_counter()
    with connection.transaction():
        bounds = {"month": month.isoformat()}
        connection.execute("select set_config('dwh.month', %(month)s, true)", bounds)
        with tempfile.TemporaryFile() as moving:
            codes = _find_moving(connection, countries, bounds, moving)
            moved = _move(connection, run, countries, moving, codes) if codes else 0
            if moved:
                mark_irreversible(connection, run.run_id)
        record_load(
            connection,
            run.run_id,
            Load(
                FEED,
                "dwh.fact_weblog",
                window_low=f"{month:%Y-%m}",
                window_high=f"{month:%Y-%m}",
                rows_updated=moved,
                geoip_database=countries.database_type,
                geoip_built_at=countries.built_at,
                seconds=time.perf_counter() - started,
            ),
        )
        connection.execute(
            """
            insert into audit.weblog_month (request_month, geoip_database, geoip_built_at, rows_moved, run_id)
            values (%s, %s, %s, %s, %s)
            on conflict (request_month) do update set
                geoip_database = excluded.geoip_database, geoip_built_at = excluded.geoip_built_at,
                rows_moved = excluded.rows_moved, run_id = excluded.run_id, classified_at = clock_timestamp()
            """,
            [month, countries.database_type, countries.built_at, moved, run.run_id],
        )
    return moved


def _find_moving(
    connection: psycopg.Connection, countries: GeoIp, bounds: dict[str, str], moving: IO[bytes]
) -> set[str]:
    """Write (country, address, new country) of all addresses whose country has changed; returns the new countries."""
    codes = np.array(countries.codes, "S2")
    code_numbers = codes.view(">u2")
    reader = AddressReader()
    new_codes: set[str] = set()
    for buffer, size in _blocks(connection, bounds):
        lines = split_lines(buffer, size)
        addresses = reader.read(buffer, lines.starts + _CODE, lines.ends)
        country = countries.of_v4(addresses.v4)
        v6 = np.flatnonzero(addresses.is_v6)
        country[v6] = countries.of_v6(addresses.high[v6], addresses.low[v6])
        before = buffer[lines.starts] * np.uint16(256) + buffer[lines.starts + 1]
        for line in np.flatnonzero(code_numbers[country] != before).tolist():
            code = countries.codes[country[line]]
            new_codes.add(code)
            moving.write(lines.text(line) + b"\t" + code.encode() + b"\n")
    return new_codes


def _blocks(
    connection: psycopg.Connection, bounds: dict[str, str]
) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], int]]:
    """Read the distinct (country, address) of a month, as lines in blocks."""
    query = sql.SQL(
        """
        copy (
            select distinct country, host(ip_address) from dwh.fact_weblog
            where requested_at >= {month}::timestamptz and requested_at < {month}::timestamptz + interval '1 month'
                and ip_address is not null
        ) to stdout
        """
    ).format(month=sql.Literal(bounds["month"]))
    collected = bytearray()
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for piece in copy:
            collected += piece
            if len(collected) >= _BLOCK_BYTES:
                yield _padded(collected)
                collected = bytearray()
    yield _padded(collected)


def _padded(content: bytearray) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], int]:
    return np.frombuffer(content + bytes(PADDING), np.uint8), len(content)


def _move(
    connection: psycopg.Connection, run: Run, countries: GeoIp, moving: IO[bytes], codes: set[str]
) -> int:
    Partitions(connection).make(sorted(codes))
    name_countries(connection, countries, sorted(codes), run.run_id)
    connection.execute("truncate staging.weblog_moving, staging.weblog_moved")
    moving.seek(0)
    with (
        connection.cursor() as cursor,
        cursor.copy("copy staging.weblog_moving (country, ip_address, new_country) from stdin") as copy,
    ):
        while piece := moving.read(1 << 16):
            copy.write(piece)
    connection.execute("analyze staging.weblog_moving")
    moved = connection.execute((QUERIES / "weblog_moved.sql").read_bytes()).rowcount
    move_countries(connection)
    drop_zeros(connection)
    return moved
