"""A lake with web logs for one test, and what a warehouse holds of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from generators import geoip
from warehouse import weblogs
from warehouse.runs import audit
from warehouse.settings import Settings

AGENT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604.1"
)
# Networks of the demo GeoIP file.
ARGENTINA, BRAZIL = (
    next(f"{n >> 24}.{n >> 16 & 255}.7.9" for c in geoip.countries() if c.code == code for n in c.v4_networks)
    for code in ("AR", "BR")
)
NOBODYS = "10.0.0.1"


def line(
    number: int = 0,
    *,
    address: str = ARGENTINA,
    user: str = "-",
    request: str = "GET / HTTP/1.1",
    agent: str = AGENT,
) -> bytes:
    """A good line; `number` makes it unlike others."""
    at = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
    return (
        f'{address} - {user} [20/Nov/2026:{at} +0000] "{request}" 200 {100 + number} "-" "{agent}"\n'.encode()
    )


def lines(first: int, last: int) -> bytes:
    """Good lines from number `first` to number `last`."""
    return b"".join(line(number) for number in range(first, last + 1))


@dataclass(frozen=True)
class WeblogLake:
    """A landing folder, and the warehouse that it is loaded into."""

    landing: Path
    settings: Settings

    def put(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = self.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def append(self, name: str, content: bytes) -> None:
        """Write on in a file."""
        with (self.landing / name).open("ab") as file:
            file.write(content)

    def load(self, **options: Any) -> weblogs.WeblogLoad:
        """Load what is new."""
        with audit.start_run(self.settings.warehouse, flow="ingest-weblogs") as run:
            return weblogs.load(self.settings, run, **options)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the warehouse."""
        with psycopg.connect(self.settings.warehouse) as connection:
            return connection.execute(query.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """Change the warehouse behind the loader's back."""
        with psycopg.connect(self.settings.warehouse) as connection:
            connection.execute(statement.encode())

    def sizes(self) -> list[int]:
        """Response sizes, less 100, in order of file and line: the numbers of the lines that are loaded."""
        return [
            n
            for (n,) in self.rows(
                "select response_bytes - 100 from dwh.fact_weblog order by file_id, line_number"
            )
        ]

    def files(self) -> list[tuple[Any, ...]]:
        """Path, status, lines, rows, quarantined of each file."""
        return self.rows(
            "select path, status, line_count, rows_loaded, rows_quarantined from audit.file order by file_id"
        )

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that loading has made, but for run ids and times of the trail."""
        return {name: self.rows(query) for name, query in CONTENT.items()}

    def assert_consistent(self) -> None:
        """Lines are loaded or quarantined, once; the aggregates are what the rows say."""
        assert not self.rows(UNACCOUNTED)
        for name, query in RECOUNTED.items():
            assert sorted(self.rows(AGGREGATED[name])) == sorted(self.rows(query)), name


def make_lake(folder: Path, warehouse_url: str) -> WeblogLake:
    """An empty lake in `folder`, with the demo GeoIP file."""
    lake = lake_in(folder, warehouse_url)
    lake.landing.mkdir(parents=True)
    geoip.write(folder / "home" / "geoip" / "demo.mmdb")
    return lake


def lake_in(folder: Path, warehouse_url: str) -> WeblogLake:
    """The lake that is in `folder` already."""
    settings = Settings(
        _env_file=None, home=folder / "home", lake=str(folder / "lake"), warehouse_url=warehouse_url
    )  # type: ignore[call-arg, arg-type]
    return WeblogLake(folder / "lake" / "landing" / "weblogs", settings)


CONTENT = {
    "weblog": """
        select ip_address, request, country, status_code, user_agent, request_timestamp, year, product_id, action,
            user_name, device, traffic_source, traffic_medium, referer, response_bytes, file_id, line_number
        from mart.weblog order by file_id, line_number
        """,
    "keys": """
        select file_id, line_number, request_key, user_agent_key, referer_key, web_user_key, device_key,
            traffic_source_key
        from dwh.fact_weblog order by 1, 2
        """,
    "quarantine": """
        select source, entity, row_key, rules, reason, file_id, line_number, byte_offset, raw_text, resolved_at is null
        from audit.quarantine order by file_id, line_number
        """,
    "file": """
        select file_id, path, head_hash, tail_hash, size_bytes, byte_offset, line_count, rows_loaded, rows_quarantined,
            unterminated_line_offset, status, message
        from audit.file order by 1
        """,
    "file_part": """
        select file_id, sum(line_count), sum(byte_count), sum(rows_loaded), sum(rows_quarantined)
        from audit.file_part group by 1 order by 1
        """,
}
AGGREGATED = {
    "country": "select country, request_count, user_count from dwh.agg_weblog_country where request_count > 0",
    "country_user": "select country, web_user_key, last_seen_date from dwh.agg_weblog_country_user",
    "device": "select device_key, request_count, user_count from dwh.agg_weblog_device where request_count > 0",
    "device_user": "select device_key, web_user_key, last_seen_date from dwh.agg_weblog_device_user",
    "country_product": "select country, product_id, view_count from dwh.agg_weblog_country_product "
    "where view_count > 0",
    "quarter_hour": "select quarter_hour_at, action, request_count from dwh.agg_weblog_quarter_hour "
    "where request_count > 0",
    "day": "select request_date, action, request_count from dwh.agg_weblog_day where request_count > 0",
}
RECOUNTED = {
    "country": """
        select country, count(*), count(distinct nullif(web_user_key, 0)) from dwh.fact_weblog group by 1
        """,
    "country_user": """
        select country, web_user_key, max((requested_at at time zone 'UTC')::date) from dwh.fact_weblog
        where web_user_key > 0 group by 1, 2
        """,
    "device": """
        select device_key, count(*), count(distinct nullif(web_user_key, 0)) from dwh.fact_weblog group by 1
        """,
    "device_user": """
        select device_key, web_user_key, max((requested_at at time zone 'UTC')::date) from dwh.fact_weblog
        where web_user_key > 0 group by 1, 2
        """,
    "country_product": """
        select country, product_id, count(*) from mart.weblog where action = 'view' and product_id is not null
        group by 1, 2
        """,
    "quarter_hour": """
        select date_bin('15 minutes', request_timestamp, timestamptz '2000-01-01 00:00:00+00'), action, count(*)
        from mart.weblog group by 1, 2
        """,
    "day": "select (request_timestamp at time zone 'UTC')::date, action, count(*) from mart.weblog group by 1, 2",
}
UNACCOUNTED = """
    with loaded as (
        select file_id, count(*) as lines, count(distinct line_number) as distinct_lines from dwh.fact_weblog group by 1
    ),
    waiting as (
        select file_id, count(*) as lines from audit.quarantine
        where source = 'weblogs' and resolved_at is null and file_id is not null
        group by file_id
    )
    select file.*, loaded.*, waiting.*
    from (select * from audit.file where feed = 'weblogs') as file
    full join loaded using (file_id)
    full join waiting using (file_id)
    where file.rows_loaded - file.rows_removed is distinct from coalesce(loaded.lines, 0)
        or coalesce(loaded.lines, 0) <> coalesce(loaded.distinct_lines, 0)
        or file.rows_quarantined is distinct from coalesce(waiting.lines, 0)
        or file.rows_removed < 0
        or file.rows_discarded <> (
            select count(*) from audit.quarantine as entry
            where entry.file_id = file.file_id and entry.resolution = 'discarded'
        )
    """
