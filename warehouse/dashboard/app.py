"""The page of `dwh dashboard`, run by Streamlit."""

from datetime import date

import streamlit as st

from warehouse.dashboard import read
from warehouse.errors import WarehouseError
from warehouse.model.mart import format_cell, read_marts, read_metrics, title_of
from warehouse.settings import Settings

EVERY = "60s"
ALL = "all"


def main() -> None:
    """Draw the page, or say why it cannot be drawn."""
    st.set_page_config("Warehouse", layout="wide")
    st.title("Warehouse")
    try:
        url = Settings.load().warehouse
        show(url)
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
    everything = read.months(url, row.source_system, row.currency, *read.ALWAYS, [])
    periods = sorted(everything.ordered_month.unique())
    first, last = st.sidebar.select_slider(
        "Period", periods, (periods[-13] if len(periods) > 13 else periods[0], periods[-1])
    )
    categories = st.sidebar.multiselect("Categories", sorted(everything.category.unique()))
    regions = read.mart(url, "customer_activity_by_region").country.unique()
    country = st.sidebar.selectbox("Country", [ALL, *sorted(regions)])
    segments = read.mart(url, "customer_segments").segment.unique()
    segment = st.sidebar.selectbox("Segment", [ALL, *sorted(segments)])
    state(url)
    sales(url, row.source_system, row.currency, first, last, categories)
    left, right = st.columns(2)
    with left:
        table(
            "top_products_by_region",
            read.products(url, row.source_system, row.currency, _one(country), categories),
        )
    with right:
        table(
            "customer_ranking",
            read.customers(url, row.source_system, row.currency, _one(country), _one(segment)),
        )
    behaviour(url)
    with st.expander("Definitions"):
        for metric in read_metrics().values():
            st.markdown(f"**{metric.title}** (`{metric.name}`): {metric.description}.")


@st.fragment(run_every=EVERY)
def state(url: str) -> None:
    """How fresh the numbers are, and whether the data behind them passed their checks."""
    try:
        fresh = read.freshness(url)
    except WarehouseError as error:
        st.error(f"The warehouse does not answer. {error.what}")
        return
    for place, row in zip(st.columns(max(len(fresh), 1)), fresh.to_dict("records"), strict=False):
        moment = f"{row['complete_at']:%Y-%m-%d %H:%M} UTC" if row["complete_at"] else "never"
        verdict = (
            "all checks passed"
            if not row["failing_count"]
            else f"{row['failing_count']} checks failed or warned"
        )
        place.metric(f"{row['source']}: complete as of", moment)
        place.caption(f"{verdict}; {row['waiting_count']:,.0f} rows in quarantine")


@st.fragment(run_every=EVERY)
def sales(url: str, source: str, currency: str, first: date, last: date, categories: list[str]) -> None:
    """Sales of the period."""
    try:
        rows = read.months(url, source, currency, first, last, categories)
    except WarehouseError as error:
        st.error(f"The warehouse does not answer. {error.what}")
        return
    st.subheader("Sales")
    for place, name in zip(st.columns(3), ("net_amount", "unit_count", "profit_amount"), strict=True):
        total = rows[name].sum(min_count=1)
        value = None if total != total else float(total)
        place.metric(title_of(name), format_cell(name, value), help=read_metrics()[name].description)
    st.caption(f"Amounts in {currency}. {read_marts()['sales_by_category_month'].description}")
    st.bar_chart(rows, x="ordered_month", y="net_amount", color="category", y_label=f"Net sales, {currency}")


def behaviour(url: str) -> None:
    """The funnel, and conversion per traffic source."""
    left, right = st.columns(2)
    with left:
        table("purchase_funnel", read.mart(url, "purchase_funnel"))
    with right:
        table("traffic_source_conversion", read.mart(url, "traffic_source_conversion"))


def table(name: str, rows: object) -> None:
    """A mart's title, description and rows."""
    mart = read_marts()[name]
    st.subheader(mart.title)
    st.caption(mart.description)
    st.dataframe(rows, hide_index=True)


def _one(chosen: str | None) -> str | None:
    return None if chosen == ALL else chosen


main()
