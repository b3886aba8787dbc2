"""The live dashboard: its numbers are those of the marts, filters hold, and it says so when the warehouse is down."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

import pytest

from tests.browser import visit
from tests.marts import MartWorld
from warehouse.dashboard import APP
from warehouse.model.mart import format_cell

testing = pytest.importorskip(
    "streamlit.testing.v1", reason="no dashboard: streamlit is not installed (extra dashboard)"
)


def test_numbers_are_those_of_the_marts_and_filters_hold(
    mart_world: MartWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", mart_world.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=60).run()
    assert not app.exception and not app.error
    months = mart_world.mart("sales_by_category_month")
    chosen = sorted(months.ordered_month.unique())[-13:]
    shown = {metric.label: metric.value for metric in app.metric}
    period = months[months.ordered_month.isin(chosen)]
    assert shown["Net sales"] == format_cell("net_amount", period.net_amount.sum())
    assert shown["shop: complete as of"].endswith("UTC")
    category = months.category[0]
    app.multiselect[0].set_value([category]).run()
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Net sales"] == format_cell(
        "net_amount", period[period.category == category].net_amount.sum()
    )
    assert not app.exception


def test_page_says_that_the_warehouse_is_down_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", "postgresql://reader:s3cret@127.0.0.1:1/warehouse")
    app = testing.AppTest.from_file(str(APP), default_timeout=60).run()
    assert not app.exception
    (error,) = app.error
    assert "does not answer" in error.value
    assert "s3cret" not in str([one.value for one in (*app.error, *app.info, *app.markdown)])


@pytest.fixture
def served(mart_world: MartWorld, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dwh = Path(sys.executable).with_name("dwh")
    environment = {**os.environ, "DWH_WAREHOUSE_URL": mart_world.warehouse_url, "DWH_HOME": str(tmp_path)}
    process = subprocess.Popen([dwh, "dashboard", "--headless", "--port", str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    give_up_at = monotonic() + 120
    try:
        while True:
            try:
                urlopen(f"{url}/_stcore/health", timeout=5)
                break
            except OSError:
                assert monotonic() < give_up_at and process.poll() is None
                sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_dashboard_is_drawn_in_a_browser(mart_world: MartWorld, served: str) -> None:
    with visit(served) as opened:
        opened.page.wait_for_selector("text=Customer ranking", timeout=60_000)
        opened.page.wait_for_selector("canvas, svg.marks", timeout=60_000)
        text = opened.page.inner_text("body")
        asked = {address.split("/")[2] for address in opened.requests if "://" in address}
    assert "complete as of" in text
    assert asked == {served.split("/")[2]}
    assert opened.errors == []
