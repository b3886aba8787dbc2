"""The page of `dwh dashboard`, run by Streamlit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any

import pandas as pd
import streamlit as st

from warehouse.dashboard import read
from warehouse.errors import WarehouseError
from warehouse.model.mart import format_cell, read_marts, read_metrics, title_of
from warehouse.settings import Settings

EVERY = "60s"
ALL = "all"
# The source of what is known of visitors.
WEBLOGS = "weblogs"


def main() -> None:
    """Draw the page, or say why it cannot be drawn."""
    st.set_page_config("Warehouse", layout="wide")
    st.title("Warehouse")
    with answering():
        show(Settings.load().warehouse)


@contextmanager
def answering() -> Iterator[None]:
    """Say so where the warehouse does not answer; the rest of the page stays."""
    try:
        yield
    except WarehouseError as error:
        st.error(f"The warehouse does not answer. {error.what}")
        if error.hint:
            st.info(error.hint)


def show(url: str) -> None:
    """Filters on the side; freshness, sales, products, customers and behaviour beside them."""
    known = read.sources(url)
    if known.empty:
        st.warning("Nothing has been loaded yet: dwh run daily, or dwh demo.")
        return
    names = [f"{row.source_system}, {row.currency}" for row in known.itertuples()]
    chosen = st.sidebar.selectbox("Source and currency", names)
    row = known.iloc[names.index(chosen or names[0])]
    source, currency = row.source_system, row.currency
    everything = read.months(url, source, currency, *read.ALWAYS, [])
    periods = sorted(everything.ordered_month.unique())
    first, last = st.sidebar.select_slider(
        "Period",
        periods,
        (periods[-13] if len(periods) > 13 else periods[0], periods[-1]),
        format_func=lambda month: f"{month:%b %Y}",
    )
    categories = st.sidebar.multiselect("Categories", sorted(everything.category.unique()))
    regions = read.mart(url, "customer_activity_by_region").country.unique()
    country = st.sidebar.selectbox("Country", [ALL, *sorted(regions)])
    segments = read.mart(url, "customer_segments").segment.unique()
    segment = st.sidebar.selectbox("Segment", [ALL, *sorted(segments)])
    state(url)
    sales(url, source, currency, first, last, categories)
    left, right = st.columns(2)
    with left:
        products(url, source, currency, _one(country), categories)
    with right:
        customers(url, source, currency, _one(country), _one(segment))
    behaviour(url)
    with st.expander("Definitions"):
        for metric in read_metrics().values():
            st.markdown(f"**{metric.title}** (`{metric.name}`): {metric.description}.")


@st.fragment(run_every=EVERY)
def state(url: str) -> None:
    """How fresh the numbers are, and whether the data behind them passed their checks."""
    with answering():
        fresh = read.freshness(url).to_dict("records")
        for place, row in zip(st.columns(max(len(fresh), 1)), fresh, strict=False):
            place.metric(f"{row['source']}: complete as of", _minute(row["complete_at"]))
            place.caption(f"{_verdict(row)}; {row['waiting_count']:,.0f} rows in quarantine")


@st.fragment(run_every=EVERY)
def sales(url: str, source: str, currency: str, first: date, last: date, categories: list[str]) -> None:
    """Sales of the period."""
    with answering():
        rows = read.months(url, source, currency, first, last, categories)
        st.subheader(f"Sales, {first:%B %Y} to {last:%B %Y}")
        for place, name in zip(st.columns(3), ("net_amount", "unit_count", "profit_amount"), strict=True):
            total = rows[name].sum(min_count=1)
            value = None if total != total else float(total)
            place.metric(title_of(name), format_cell(name, value), help=read_metrics()[name].description)
        st.caption(
            f"Amounts in {currency}. {read_marts()['sales_by_category_month'].description} {_fresh(url, source)}"
        )
        drawn = rows.rename(columns={"ordered_month": "Month", "category": "Category"})
        drawn["Month"] = pd.to_datetime(drawn["Month"])
        st.bar_chart(
            drawn, x="Month", y="net_amount", color="Category", x_label="", y_label=f"Net sales, {currency}"
        )


@st.fragment(run_every=EVERY)
def products(url: str, source: str, currency: str, country: str | None, categories: list[str]) -> None:
    """The best-selling products of a country."""
    with answering():
        rows = read.products(url, source, currency, country, categories)
        table("top_products_by_region", rows, f"Amounts in {currency}. {_fresh(url, source)}")


@st.fragment(run_every=EVERY)
def customers(url: str, source: str, currency: str, country: str | None, segment: str | None) -> None:
    """The best customers of a country or segment."""
    with answering():
        rows = read.customers(url, source, currency, country, segment)
        table("customer_ranking", rows, f"Amounts in {currency}. {_fresh(url, source)}")


@st.fragment(run_every=EVERY)
def behaviour(url: str) -> None:
    """The funnel, and conversion per traffic source."""
    with answering():
        fresh = _fresh(url, WEBLOGS)
        for place, name in zip(st.columns(2), ("purchase_funnel", "traffic_source_conversion"), strict=True):
            with place:
                table(name, read.mart(url, name), fresh)


def table(name: str, rows: pd.DataFrame, note: str) -> None:
    """A mart's title, description and rows; columns are named and formatted as on every surface."""
    mart = read_marts()[name]
    st.subheader(mart.title)
    st.caption(f"{mart.description} {note}")
    st.dataframe(rows, hide_index=True, column_config={column: _column(column) for column in rows.columns})


def _column(name: str) -> Any:
    title = title_of(name)
    if name.endswith(("_share", "_rate", "share_of_previous", "share_of_first")):
        return st.column_config.NumberColumn(title, format="percent")
    if name.endswith("_amount"):
        return st.column_config.NumberColumn(title, format="%.2f")
    return st.column_config.Column(title)


def _fresh(url: str, source: str) -> str:
    """As of when a source is complete, and whether its data passed their checks, in a sentence."""
    for row in read.freshness(url).to_dict("records"):
        if row["source"] == source:
            return f"{source} is complete as of {_minute(row['complete_at'])}; {_verdict(row)}."
    return ""


def _minute(moment: Any) -> str:
    return "never" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M} UTC"


def _verdict(row: Mapping[Any, Any]) -> str:
    failing = row["failing_count"]
    return f"{failing} checks failed or warned" if failing else "all checks passed"


def _one(chosen: str | None) -> str | None:
    return None if chosen == ALL else chosen


main()
