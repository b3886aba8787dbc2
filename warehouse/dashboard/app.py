"""The page of `dwh dashboard`, run by Streamlit."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from warehouse.dashboard import read
from warehouse.errors import WarehouseError, counted
from warehouse.model.mart import format_cell, read_marts, read_metrics, title_of
from warehouse.settings import Settings

EVERY = "60s"
# Interval of retries while the warehouse does not answer.
RETRY_EVERY = "5s"
ALL = "all"
# Source name of the web logs.
WEBLOGS = "weblogs"


def main() -> None:
    """Draw the page, or the error that prevents it."""
    st.set_page_config("Warehouse", layout="wide")
    st.title("Warehouse")
    try:
        show(Settings.load().warehouse)
    except WarehouseError as error:
        _say_down(error)
        wait(Settings.load().warehouse)


@contextmanager
def answering() -> Iterator[None]:
    """Show a warehouse error in place of this part of the page; the other parts stay."""
    try:
        yield
    except WarehouseError as error:
        _say_down(error)


@st.fragment(run_every=RETRY_EVERY)
def wait(url: str) -> None:
    """Draw the page as soon as the warehouse answers."""
    with suppress(WarehouseError):
        read.query(url, "select")
        st.rerun()
    st.caption("This page is drawn as soon as it answers.")


def show(url: str) -> None:
    """Draw filters in the sidebar, and freshness, sales, products, customers and behaviour on the page."""
    sales_sources = read.sources(url)
    if sales_sources.empty:
        st.warning("Nothing has been loaded yet: dwh run daily, or dwh demo.")
        return
    names = [f"{row.source_system}, {row.currency}" for row in sales_sources.itertuples()]
    chosen = st.sidebar.selectbox("Source and currency", names)
    row = sales_sources.iloc[names.index(chosen or names[0])]
    source, currency = row.source_system, row.currency
    everything = read.months(url, source, currency, *read.ALWAYS, [])
    first, last = choose_period(sorted(everything.ordered_month.unique()), row.as_of_date)
    categories = st.sidebar.multiselect(
        "Categories", sorted(everything.category.unique()), help="Of sales and products"
    )
    countries = read.countries(url, source, currency)
    country = st.sidebar.selectbox("Country", [ALL, *countries], help="Of sales, products and customers")
    segments = read.mart(url, "customer_segments")
    segments = segments[(segments.source_system == source) & (segments.currency == currency)].segment
    segment = st.sidebar.selectbox("Segment", [ALL, *sorted(segments)], help="Of sales and customers")
    state(url)
    sales(url, source, currency, first, last, categories, _one(country), _one(segment))
    products(url, source, currency, _one(country), categories)
    customers(url, source, currency, _one(country), _one(segment))
    behaviour(url)
    with st.expander("Definitions"):
        for metric in read_metrics().values():
            st.markdown(f"**{metric.title}** (`{metric.name}`): {metric.description}.")


def choose_period(months: list[date], as_of: date | None) -> tuple[date, date]:
    """Let the user choose the first and last month; the default is the as-of date's month and the year before it."""
    if len(months) == 1:
        # Streamlit cannot draw a slider with a single value.
        st.sidebar.caption(f"Period: {months[0]:%b %Y}, the only month with sales")
        return months[0], months[0]
    past = [month for month in months if as_of and month <= as_of] or months
    chosen: tuple[date, date] = st.sidebar.select_slider(
        "Period",
        months,
        (past[max(0, len(past) - 13)], past[-1]),
        format_func=lambda month: f"{month:%b %Y}",
        help="Of sales by month and category; products and customers are those of all time",
    )
    return chosen


@st.fragment(run_every=EVERY)
def state(url: str) -> None:
    """Draw freshness and check results of each source."""
    with answering():
        fresh = read.freshness(url).to_dict("records")
        for place, row in zip(st.columns(max(len(fresh), 1), border=True), fresh, strict=False):
            place.markdown(f"**{row['source']}** complete as of {_minute(row['complete_at'])}")
            place.caption(f"{_verdict(row)}; {counted(int(row['waiting_count']), 'row')} in quarantine")
        failing = read.failing_checks(url)
        if not failing.empty:
            with st.expander(f"{counted(len(failing), 'check')} failed or warned"):
                _draw(failing)


@st.fragment(run_every=EVERY)
def sales(
    url: str,
    source: str,
    currency: str,
    first: date,
    last: date,
    categories: list[str],
    country: str | None,
    segment: str | None,
) -> None:
    """Draw the sales of the period."""
    with answering():
        rows = read.months(url, source, currency, first, last, categories, country, segment)
        st.subheader(f"Sales, {first:%B %Y} to {last:%B %Y}")
        for place, name in zip(st.columns(3), ("net_amount", "unit_count", "profit_amount"), strict=True):
            total = rows[name].sum(min_count=1)
            value = None if total != total else float(total)
            place.metric(title_of(name), format_cell(name, value), help=read_metrics()[name].description)
        mart = read_marts()[read.months_mart(segment)]
        note = f"{_filtered(currency, categories, country, segment)} {_fresh(url, source, mart.name)}"
        st.caption(f"{mart.description} {note}")
        if rows.empty:
            st.info("Nothing was sold that all filters let through.")
            return
        amount = f"{title_of('net_amount')}, {currency}"
        # Pass months as texts: on a time axis the bars would be as thin as lines.
        months = rows.assign(month=[f"{month:%Y-%m}" for month in rows.ordered_month])
        for place, name, is_flat in zip(st.columns(2), ("month", "category"), (False, True), strict=True):
            drawn = months.groupby(name, as_index=False)[["net_amount"]].sum()
            place.bar_chart(
                drawn,
                x=name,
                y="net_amount",
                x_label="",
                y_label=amount,
                horizontal=is_flat,
                sort="-net_amount" if is_flat else True,
                # Make room for all names: if they are too close, every second one is not drawn.
                height=max(340, 34 * len(drawn)) if is_flat else 340,
                alt=f"{amount} by {name}: " + _spoken(drawn, name),
            )


@st.fragment(run_every=EVERY)
def products(url: str, source: str, currency: str, country: str | None, categories: list[str]) -> None:
    """Draw the best-selling products of a country."""
    with answering():
        rows = read.products(url, source, currency, country, categories)
        note = f"{_filtered(currency, categories, country)} {_fresh(url, source, 'top_products_by_region')}"
        table("top_products_by_region", rows, note)


@st.fragment(run_every=EVERY)
def customers(url: str, source: str, currency: str, country: str | None, segment: str | None) -> None:
    """Draw the best customers of a country or segment."""
    with answering():
        rows = read.customers(url, source, currency, country, segment)
        note = f"{_filtered(currency, country, segment)} {_fresh(url, source, 'customer_ranking')}"
        table("customer_ranking", rows, note)


@st.fragment(run_every=EVERY)
def behaviour(url: str) -> None:
    """Draw the purchase funnel, and conversion per traffic source."""
    with answering():
        for name in ("purchase_funnel", "traffic_source_conversion"):
            table(name, read.mart(url, name), _fresh(url, WEBLOGS, name))


def table(name: str, rows: pd.DataFrame, note: str) -> None:
    """Draw a mart's title, description and rows, with column titles and formats as in the report."""
    mart = read_marts()[name]
    st.subheader(mart.title)
    st.caption(f"{mart.description} {note}")
    _draw(rows)


def _draw(rows: pd.DataFrame) -> None:
    """Draw a table with formatted cells. Users sort it by the values, not by the formatted texts."""
    formats: Any = {name: partial(format_cell, name) for name in rows.columns}
    headings = {name: st.column_config.Column(title_of(name)) for name in rows.columns}
    st.dataframe(
        rows.style.format(formats, na_rep="–"), hide_index=True, column_config=headings, placeholder="–"
    )


def _filtered(currency: str, *filters: str | list[str] | None) -> str:
    """Describe the filters of the rows below in a sentence."""
    chosen = [", ".join(one) if isinstance(one, list) else one for one in filters if one]
    return f"Amounts in {_plain(currency)}." + (f" Only {_plain('; '.join(chosen))}." if chosen else "")


def _plain(text: str) -> str:
    """Escape a text of a source for Markdown: otherwise a category's name could load an external image."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _fresh(url: str, source: str, mart: str) -> str:
    """Describe the freshness of a mart's rows and the check results of their source in a sentence.

    Stored marts may be older than the source's last run, and those of the current day older than the last refresh.
    """
    states = {row["source"]: row for row in read.freshness(url).to_dict("records")}
    if source not in states:
        return ""
    moments = [states[source]["complete_at"], read.complete_at(url, read_marts()[mart].stored_tables())]
    as_of = pd.NaT if any(map(pd.isna, moments)) else min(moments)
    return f"Complete as of {_minute(as_of)}; {_verdict(states[source])}."


def _say_down(error: WarehouseError) -> None:
    st.error(f"The warehouse does not answer. {error.what}")
    if error.hint:
        st.info(error.hint)


def _spoken(rows: pd.DataFrame, name: str) -> str:
    """Describe the bars of a chart in words (alt text), the tallest first."""
    ordered = rows.sort_values("net_amount", ascending=False).to_dict("records")
    return ", ".join(f"{row[name]} {format_cell('net_amount', row['net_amount'])}" for row in ordered)


def _minute(moment: Any) -> str:
    return "never" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M} UTC"


def _verdict(row: Mapping[Any, Any]) -> str:
    failing = row["failing_count"]
    return f"{counted(failing, 'check')} failed or warned" if failing else "all checks passed"


def _one(chosen: str | None) -> str | None:
    return None if chosen == ALL else chosen


main()
