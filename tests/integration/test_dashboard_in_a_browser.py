"""`dwh dashboard` in a real browser, served to a login that may only read: numbers, filters, phone, warehouse down."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import pandas as pd
import pytest
from psycopg import sql

from stack.files import free_port
from tests.browser import Visit, visit
from tests.marts import MartWorld
from warehouse.db.connections import connect
from warehouse.db.roles import READER
from warehouse.model.mart import format_cell, title_of

pytest.importorskip("streamlit", reason="no dashboard: streamlit is not installed (extra dashboard)")

SECRET = "s3cret-of-the-dashboard"
READ_TABLES = """
    () => [...document.querySelectorAll('[data-testid=stDataFrame]')].map(
        table => [...table.querySelectorAll('canvas tr')].map(row => [...row.children].map(cell => cell.textContent))
    ).filter(rows => rows.length)
"""


@dataclass(frozen=True)
class Served:
    """A dashboard that is served, and how its login to the warehouse is taken away and given back."""

    url: str
    may_log_in: Callable[[bool], None]


@pytest.fixture(scope="module")
def served(mart_world: MartWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    name = f"dashboard_{uuid.uuid4().hex[:10]}"
    login = sql.Identifier(name)
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} login password {}; grant {} to {}").format(
                login, sql.Literal(SECRET), sql.Identifier(READER), login
            )
        )
        parts = urlsplit(mart_world.warehouse_url)
        place = f"{name}:{SECRET}@{parts.hostname}:{parts.port}"
        environment = {
            **os.environ,
            "DWH_WAREHOUSE_URL": urlunsplit(parts._replace(netloc=place)),
            "DWH_HOME": str(tmp_path_factory.mktemp("home")),
            # As of somebody who starts it for the first time, and whose browser is a program that ends.
            "HOME": str(tmp_path_factory.mktemp("user")),
            "BROWSER": "true",
        }
        port = free_port()
        dwh = Path(sys.executable).with_name("dwh")
        process = subprocess.Popen(
            [dwh, "dashboard", "--port", str(port)], env=environment, stdin=subprocess.DEVNULL
        )
        url = f"http://127.0.0.1:{port}"
        give_up_at = monotonic() + 120
        try:
            while True:
                try:
                    urlopen(f"{url}/_stcore/health", timeout=30)
                    break
                except OSError:
                    assert monotonic() < give_up_at and process.poll() is None
                    sleep(0.3)

            def may_log_in(may: bool) -> None:
                option = sql.SQL("login" if may else "nologin")
                connection.execute(sql.SQL("alter role {} {}").format(login, option))

            yield Served(url, may_log_in)
        finally:
            process.terminate()
            process.wait(120)
            connection.execute(sql.SQL("drop role {}").format(login))


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds: the page answers a filter when its server has."""
    give_up_at = monotonic() + 120
    while not condition():
        assert monotonic() < give_up_at
        sleep(0.1)


def wait_until_drawn(opened: Visit) -> None:
    opened.page.wait_for_selector("text=Conversion per traffic source", timeout=120_000)
    wait_until(lambda: len(opened.page.evaluate(READ_TABLES)) == 4)
    wait_until(lambda: opened.page.locator("[data-testid=stVegaLiteChart] svg").count() == 2)


def tables_on(opened: Visit) -> dict[tuple[str, ...], list[list[str]]]:
    """Rows of each table that are in sight, by its headings."""
    return {tuple(rows[0]): rows[1:] for rows in opened.page.evaluate(READ_TABLES)}


def net_sales_on(opened: Visit) -> str:
    return str(opened.page.locator("[data-testid=stMetricValue]").first.inner_text())


def bars_on(opened: Visit) -> Sequence[str]:
    """What each chart says of itself to those who cannot see it."""
    charts = opened.page.locator("[data-testid=stVegaLiteChart]").all()
    return [chart.get_attribute("aria-label") for chart in charts]


def comparable(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows of a table's accessible text, or of a mart: numbers as numbers, nothing as an empty text."""
    return [["" if cell is None or cell != cell else _number(cell) for cell in row] for row in rows]


def _number(cell: Any) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def assert_shown(opened: Visit, expected: pd.DataFrame) -> None:
    """Wait until the table with the frame's columns shows its first rows, as many as are in sight."""
    rows = comparable(expected.to_numpy().tolist())
    assert rows

    def is_shown() -> bool:
        found = comparable(tables_on(opened).get(tuple(map(title_of, expected.columns)), []))
        return len(found) >= min(len(rows), 8) and found == rows[: len(found)]

    wait_until(is_shown)


def test_numbers_are_the_database_and_filters_work_by_keyboard_alone(
    mart_world: MartWorld, served: Served
) -> None:
    months = mart_world.mart("sales_by_country_month")
    period = months[months.ordered_month.isin(sorted(months.ordered_month.unique())[-13:])]
    with visit(served.url, height=2400) as opened:
        wait_until_drawn(opened)
        assert net_sales_on(opened) == format_cell("net_amount", period.net_amount.sum())
        by_month = period.groupby("ordered_month").net_amount.sum().sort_values(ascending=False)
        by_category = period.groupby("category").net_amount.sum().sort_values(ascending=False)
        assert [label.split(": ")[1] for label in bars_on(opened)] == [
            ", ".join(f"{name} {format_cell('net_amount', amount)}" for name, amount in bars)
            for bars in (((f"{month:%Y-%m}", n) for month, n in by_month.items()), by_category.items())
        ]
        drawn = (
            opened.page.locator("[data-testid=stVegaLiteChart] svg").last.locator("text").all_text_contents()
        )
        assert [name for name in drawn if name in by_category.index] == list(by_category.index)
        products = mart_world.mart("top_products_by_region").sort_values(
            ["unit_count", "category", "customer_country", "product_rank"],
            ascending=[False, True, True, True],
        )[["product_name", "unit_count", "net_amount", "category", "customer_country", "product_rank"]]
        customers = mart_world.mart("customer_ranking_masked").sort_values("customer_rank")[
            [
                "customer_rank",
                "customer_key",
                "net_amount",
                "order_count",
                "segment",
                "customer_country",
                "recency_days",
            ]
        ]
        assert_shown(opened, products)
        assert_shown(opened, customers)
        for name in ("purchase_funnel", "traffic_source_conversion"):
            assert_shown(opened, mart_world.mart(name))

        for name in ("Source and currency", "Categories", "Country", "Segment"):
            for _ in range(20):
                opened.page.keyboard.press("Tab")
                if opened.page.evaluate("document.activeElement.getAttribute('aria-label')") == name:
                    break
            assert opened.page.evaluate("document.activeElement.getAttribute('aria-label')") == name
            typed = {"Categories": by_category.index[0], "Country": "AR", "Segment": "champion"}.get(name)
            if typed:
                opened.page.keyboard.type(typed)
                opened.page.keyboard.press("Enter")
        category = by_category.index[0]
        rows = mart_world.mart("sales_by_segment_month")
        rows = rows[rows.ordered_month.isin(period.ordered_month) & (rows.category == category)]
        rows = rows[(rows.customer_country == "AR") & (rows.segment == "champion")]
        wait_until(lambda: net_sales_on(opened) == format_cell("net_amount", rows.net_amount.sum()))
        assert_shown(opened, products[(products.customer_country == "AR") & (products.category == category)])
        assert_shown(
            opened, customers[(customers.customer_country == "AR") & (customers.segment == "champion")]
        )
        text = opened.page.inner_text("body")
        page = opened.page.content()
    assert f"Only AR; {category}" in text or f"Only {category}; AR" in text
    assert opened.errors == []
    assert {urlsplit(address).netloc for address in opened.requests if not address.startswith("data:")} == {
        urlsplit(served.url).netloc
    }
    sent = [page, *opened.requests, *(frame.decode("latin-1") for frame in opened.received)]
    assert len(opened.received) > 20 and not [
        text for text in sent if SECRET in text or "postgresql://" in text
    ]


def test_dashboard_fits_a_phone_and_says_that_the_warehouse_is_down_until_it_is_back(served: Served) -> None:
    with visit(served.url, width=390, height=800) as opened:
        wait_until_drawn(opened)
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        wide = page.evaluate(
            "[...document.querySelectorAll('[data-testid=stMain] *')]"
            ".filter(each => each.getBoundingClientRect().right > 391 && !each.closest('[data-testid=stDataFrame]'))"
            ".map(each => each.outerHTML.slice(0, 200))"
        )
        assert wide == []
        # Filters are behind the button that opens the sidebar.
        page.locator("[data-testid=stExpandSidebarButton]").click()
        page.wait_for_selector("text=Segment", state="visible")
        assert opened.errors == []

        served.may_log_in(False)
        try:
            page.reload()
            page.wait_for_selector("text=The warehouse does not answer", timeout=120_000)
            assert page.locator("[data-testid=stMetricValue]").count() == 0
            assert SECRET not in page.content()
        finally:
            served.may_log_in(True)
        wait_until_drawn(opened)
        page.wait_for_selector("text=The warehouse does not answer", state="detached", timeout=120_000)
    assert not [frame for frame in opened.received if SECRET.encode() in frame]


@pytest.mark.slow
def test_numbers_follow_the_warehouse_without_a_reload(mart_world: MartWorld, served: Served) -> None:
    with (
        visit(served.url) as opened,
        connect(mart_world.warehouse_url, autocommit=True) as connection,
    ):
        wait_until_drawn(opened)
        before = net_sales_on(opened)
        change = "update mart.sales_by_country_month set net_amount = net_amount + {}"
        connection.execute(change.format(1000).encode())
        try:
            opened.page.wait_for_function(
                "before => document.querySelector('[data-testid=stMetricValue]').innerText !== before",
                arg=before,
                timeout=90_000,
            )
        finally:
            connection.execute(change.format(-1000).encode())
