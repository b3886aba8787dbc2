"""A warehouse of generated sales and web logs, and the same raw data as pandas reads them without it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import psycopg
import ua_parser
from psycopg import sql

from generators import geoip
from generators import leads as lead_generator
from generators import weblogs as log_generator
from generators.shop import generate
from generators.shop.visitors import visitors
from tests.pipeline import Pipeline
from tests.weblog_lake import WeblogLake, make_lake
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.feeds.stage import stage_feed
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.model.mart import Mart
from warehouse.runs.audit import Load, start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

# Midnight two days ago: a simulated day still lies in the past.
UNTIL = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
LINE = re.compile(r'(\S+) - (\S+) \[([^]]+)\] "(\S+ (\S+) [^"]*)" (\d+) (\S+) "([^"]*)" "([^"]*)"')
ACTIONS = {
    "/search": "search",
    "/product": "view",
    "/cart": "add_to_cart",
    "/checkout": "checkout",
    "/login": "login",
}
SITES = {
    "www.google.com": ("google", "search"),
    "www.bing.com": ("bing", "search"),
    "duckduckgo.com": ("duckduckgo", "search"),
    "www.facebook.com": ("facebook", "social"),
    "l.instagram.com": ("instagram", "social"),
    "www.linkedin.com": ("linkedin", "social"),
    "t.co": ("twitter", "social"),
    "blog.partner.example": ("blog.partner.example", "referral"),
    "www.shop.example": ("internal", "internal"),
}


def country_of(address: str) -> str:
    """Country of an address, by the networks that the generator drew it from."""
    return _networks()[int(ip_address(address)) >> (16 if "." in address else 96)]


@cache
def _networks() -> dict[int, str]:
    found = {network >> 16: place.code for place in geoip.countries() for network in place.v4_networks}
    return found | {place.v6_network >> 96: place.code for place in geoip.countries()}


@cache
def device_of(agent: str) -> str:
    """Family of the device of a user agent."""
    device = ua_parser.parse_device(agent)
    return device.family if device else "Other"


def fill_shop(url: str) -> None:
    """Generate a shop of 1,200 orders; no row of it is bad."""
    generate(url, rows=1200, companies=12, customers=150, products=60, until=UNTIL, defects=0)


def fill_warehouse(shop_url: str, url: str, lake: Path) -> None:
    """Load that shop and a week of logs of its site, and refresh the marts."""
    pipeline = Pipeline(shop_url, url)
    pipeline.capture()
    pipeline.close()
    made = make_lake(lake, url)
    usernames, product_ids = visitors(shop_url)
    log_generator.generate(
        made.landing,
        lines=6000,
        days=7,
        until=(UNTIL - timedelta(days=1)).date(),
        usernames=usernames,
        product_ids=product_ids,
        bad_share=0,
    )
    made.load()
    leads = read_source("leads")
    assert leads.feed is not None
    # Long ago: half of the contacts have ordered since.
    lead_generator.generate(
        lake / "lake" / leads.feed.landing,
        rows=150,
        days=4,
        until=(UNTIL - timedelta(days=200)).date(),
        defects=0.05,
        contacts=lead_generator.contacts_of(shop_url),
    )
    with start_run(url, flow="ingest-leads") as run:
        publish(run, stage_feed(run, leads, str(lake / "lake"), threshold=DeleteThreshold()))
    refresh(url)


def refresh(warehouse_url: str) -> dict[str, Load]:
    """Refresh the stored marts; loads by the name of the mart."""
    with start_run(warehouse_url, flow="refresh-marts") as run:
        loads = marts.refresh(run)
    return {load.table_name.removeprefix("mart."): load for load in loads}


@dataclass
class MartWorld:
    """A shop, its logs, and the warehouse that both were loaded into."""

    shop_url: str
    warehouse_url: str
    folder: Path

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.shop_url, self.warehouse_url)

    @property
    def lake(self) -> WeblogLake:
        settings = Settings(
            _env_file=None,
            home=self.folder / "home",
            lake=str(self.folder / "lake"),
            warehouse_url=self.warehouse_url,
        )  # type: ignore[call-arg, arg-type]
        return WeblogLake(self.folder / "lake" / "landing" / "weblogs", settings)

    def close(self) -> None:
        self.pipeline.close()

    def mart(self, name: str) -> pd.DataFrame:
        """All rows of a mart, numbers as they are."""
        cursor = self.pipeline.warehouse.execute(
            sql.SQL("select * from {}").format(sql.Identifier("mart", name))
        )
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])

    def answer(self, mart: Mart) -> pd.DataFrame:
        """The rows of an answer that every surface shows, in their order."""
        cursor = self.pipeline.warehouse.execute(mart.select(200).encode())
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])

    def raw_table(self, name: str) -> pd.DataFrame:
        """A table of the shop."""
        with psycopg.connect(self.shop_url, options="-c timezone=UTC") as connection:
            cursor = connection.execute(f"select * from public.{name}".encode())
            return pd.DataFrame(
                cursor.fetchall(), columns=[column.name for column in cursor.description or ()]
            )

    def raw_lines(self) -> pd.DataFrame:
        """Order lines of the shop with what they refer to, and amounts as decimals."""
        lines = self.raw_table("order_item").rename(columns={"status": "line_status"})
        orders = self.raw_table("sales_order")[["id", "customer_id", "payment_method_id", "ordered_at"]]
        lines = lines.merge(orders.rename(columns={"id": "sales_order_id"}), on="sales_order_id")
        for table, columns in {
            "product": {
                "name": "product_name",
                "category_id": "category_id",
                "currency": "currency",
                "company_id": "company_id",
            },
            "company": {"name": "company_name", "cuit": "cuit"},
            "customer": {
                "name": "customer_name",
                "country": "customer_country",
                "document_number": "document_number",
                "birth_date": "birth_date",
            },
            "payment_method": {"name": "payment_method_name"},
            "promotion": {"name": "promotion_name"},
        }.items():
            frame = self.raw_table(table)[["id", *columns]].rename(columns={"id": f"{table}_id"} | columns)
            lines = lines.merge(frame, on=f"{table}_id", how="left")
        category = self.raw_table("category")[["id", "name"]]
        lines = lines.merge(
            category.rename(columns={"id": "category_id", "name": "category"}), on="category_id", how="left"
        )
        lines["gross"] = lines.quantity * lines.unit_price
        lines["net"] = lines.gross - lines.discount_amount
        lines["profit"] = lines.net - lines.quantity * lines.unit_price_default
        lines["date"] = lines.ordered_at.dt.tz_convert("UTC").dt.date
        lines["month"] = lines.date.map(lambda day: day.replace(day=1))
        lines["promotion_name"] = lines.promotion_name.where(lines.promotion_name.notna(), "none")
        return lines

    def raw_requests(self) -> pd.DataFrame:
        """Requests of the log files, parsed by an expression of the test's own."""
        rows: list[dict[str, Any]] = []
        for path in sorted(self.lake.landing.glob("*.log")):
            for text in path.read_text().splitlines():
                match = LINE.match(text)
                assert match is not None, text
                address, user, moment, request, target, status, size, referer, agent = match.groups()
                at = datetime.strptime(moment, "%d/%b/%Y:%H:%M:%S %z")
                parts = urlsplit(target)
                parameters = parse_qs(parts.query)
                utm = parameters.get("utm_source")
                host = urlsplit(referer).hostname
                if utm:
                    source, medium = utm[0], "campaign"
                else:
                    source, medium = SITES[host] if host else ("direct", "direct")
                _, folder, *rest = parts.path.split("/")
                rows.append(
                    {
                        "address": address,
                        "country": country_of(address),
                        "request": request,
                        "product": rest[0]
                        if folder == "product"
                        else parameters.get("product_id", [None])[0],
                        "status": int(status),
                        "size": 0 if size == "-" else int(size),
                        "referer": referer,
                        "agent": agent,
                        "at": at,
                        "user": None if user == "-" else user,
                        "date": at.date(),
                        "hour": at.hour,
                        "action": ACTIONS.get(f"/{folder}", "other"),
                        "source": source,
                        "medium": medium,
                        "device": device_of(agent),
                    }
                )
        return pd.DataFrame(rows)
