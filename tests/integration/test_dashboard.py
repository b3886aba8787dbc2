"""The live dashboard: its numbers are those of the marts, filters hold, and it says so when the warehouse is down."""

import pytest

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
    states = [one.value for one in app.markdown if "complete as of" in one.value]
    assert [state.split(" ")[0] for state in states] == ["**leads**", "**mart**", "**shop**", "**weblogs**"]
    assert all(state.endswith("UTC") for state in states)
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
