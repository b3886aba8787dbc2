"""The live dashboard: its numbers are those of the marts, filters hold, and it says so when the warehouse is down."""

from datetime import date

import pytest

from tests.integration.test_marts import refresh
from tests.marts import MartWorld
from tests.pipeline import Pipeline
from warehouse.dashboard import APP
from warehouse.model.mart import format_cell

testing = pytest.importorskip(
    "streamlit.testing.v1", reason="no dashboard: streamlit is not installed (extra dashboard)"
)


def test_numbers_are_those_of_the_marts_and_filters_hold(
    mart_world: MartWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", mart_world.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
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


def test_country_and_segment_limit_sales_products_and_customers(
    mart_world: MartWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", mart_world.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
    lines = mart_world.raw_lines()
    sold = lines[lines.line_status != "cancelled"]
    sold = sold[sold.month.isin(sorted(sold.month.unique())[-13:])]
    segment_of = mart_world.mart("customer_ranking").set_index("customer_id").segment
    sold = sold.assign(segment=sold.customer_id.astype(str).map(segment_of))

    def net_sales() -> str:
        return str(app.metric[0].value)

    def choose(name: str, value: str) -> None:
        (box,) = [box for box in app.selectbox if box.label == name]
        box.set_value(value).run()

    choose("Country", "BR")
    in_brazil = sold[sold.customer_country == "BR"]
    assert net_sales() == format_cell("net_amount", in_brazil.net.sum())
    choose("Segment", "loyal")
    assert net_sales() == format_cell("net_amount", in_brazil[in_brazil.segment == "loyal"].net.sum())
    choose("Country", "all")
    assert net_sales() == format_cell("net_amount", sold[sold.segment == "loyal"].net.sum())
    assert not app.exception and not app.error
    # A country where nobody of the segment has bought a thing of that category.
    found = {(row.segment, row.customer_country, row.category) for row in sold.itertuples()}
    nothing = next(
        (segment, country, category)
        for segment in sorted(sold.segment.unique())
        for country in sorted(sold.customer_country.unique())
        for category in sorted(sold.category.unique())
        if (segment, country, category) not in found
    )
    choose("Segment", nothing[0])
    choose("Country", nothing[1])
    app.multiselect[0].set_value([nothing[2]]).run()
    assert net_sales() == "–"
    assert [one.value for one in app.info] == ["Nothing was sold that all filters let through."]
    assert not app.exception and not app.error


def test_page_of_a_warehouse_with_one_order_of_a_customer_without_a_country(
    sold: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sold.warehouse.execute("update dwh.dim_customer set country = null")
    refresh(sold)
    monkeypatch.setenv("DWH_WAREHOUSE_URL", sold.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
    assert not app.exception and not app.error
    assert any("the only month with sales" in one.value for one in app.caption)
    (box,) = [box for box in app.selectbox if box.label == "Country"]
    box.set_value("unknown").run()
    assert app.metric[0].value == "190.00"
    assert any("customer_key" in frame.value.columns and len(frame.value) == 1 for frame in app.dataframe)
    assert not app.exception and not app.error


def test_period_ends_with_the_month_of_the_as_of_date_and_not_with_an_order_of_the_future(
    sold: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sold.order(2, "2024-02-10")
    sold.order(3, "2096-03-10")
    sold.capture()
    refresh(sold)
    monkeypatch.setenv("DWH_WAREHOUSE_URL", sold.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
    assert app.select_slider[0].value == (date(2024, 2, 1), date(2024, 3, 1))
    assert app.metric[0].value == "380.00"


def test_names_of_a_source_are_no_markdown(sold: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "![x](https://evil.example/x.png) $a$ :red[b] <i>"
    sold.warehouse.execute("update dwh.dim_product set category = %s", [name])
    refresh(sold)
    monkeypatch.setenv("DWH_WAREHOUSE_URL", sold.warehouse_url)
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
    app.multiselect[0].set_value([name]).run()
    assert app.metric[0].value == "190.00" and not app.exception
    captions = [one.value for one in app.caption if "Only" in one.value]
    assert len(captions) == 2
    for caption in captions:
        assert r"Only \!\[x\]\(https\:\/\/evil\.example\/x\.png\) \$a\$ \:red\[b\] \<i\>." in caption


def test_page_says_that_the_warehouse_is_down_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", "postgresql://reader:s3cret@127.0.0.1:1/warehouse")
    app = testing.AppTest.from_file(str(APP), default_timeout=240).run()
    assert not app.exception
    (error,) = app.error
    assert "does not answer" in error.value
    assert "s3cret" not in str([one.value for one in (*app.error, *app.info, *app.markdown)])
