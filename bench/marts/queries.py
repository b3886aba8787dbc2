"""The queries of readers: every mart, and every query of report, dashboard, Grafana and Superset."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from warehouse.dashboard import read as dashboard
from warehouse.model.grafana import panel_queries
from warehouse.model.mart import read_marts
from warehouse.model.superset import bundle, chart_queries
from warehouse.report.read import queries as report_queries

GRAFANA = Path(__file__).parents[2] / "deployments" / "grafana" / "dashboards"
MOST_ROWS, PAGE = 10_000, 100
# Marts of details, with the columns by which they are looked up and paged.
DETAILS: dict[str, tuple[str, ...]] = {
    "sales": ("order_id", "source_system"),
    "orders": ("order_id", "source_system"),
    "order_totals": ("order_id", "source_system"),
    # Rows of a country are stored in the order of files: a page is a hundred lines of one file.
    "weblog": ("country", "file_id", "line_number"),
    "customer_feature": ("as_of_date", "source_system", "customer_id"),
    "job_run": ("run_id",),
    "leads": ("lead_id", "source_system"),
}
Query = tuple[str, Callable[[], Any]]


def all_queries(url: str, reader: psycopg.Connection, owner: psycopg.Connection) -> Iterator[Query]:
    """Yield all queries: marts, Grafana and Superset run as `reader`; the report, which reads schema audit, as `owner`.

    The dashboard opens connections of its own, as a reader.
    """
    for name in read_marts():
        yield from _mart(name, reader)
    for path in sorted(GRAFANA.glob("*.json")):
        for number, (title, query) in enumerate(panel_queries(path.read_text()), 1):
            yield f"grafana {path.stem} {number}: {title}", _ask(reader, query)
    for title, query in chart_queries(bundle()).items():
        yield f"superset: {title}", _ask(reader, query)
    for name, query in report_queries().items():
        yield f"report: {name}", _ask(owner, query)
    yield from _dashboard(url)


def _mart(name: str, connection: psycopg.Connection) -> Iterator[Query]:
    relation = sql.Identifier("mart", name)
    if name not in DETAILS:
        query = sql.SQL("select * from {} limit {}").format(relation, sql.Literal(MOST_ROWS))
        yield f"mart.{name}", _ask(connection, query)
        return
    key = sql.SQL(", ").join(map(sql.Identifier, DETAILS[name]))
    row = connection.execute(sql.SQL("select {} from {} offset 50 limit 1").format(key, relation)).fetchone()
    if row is None:
        return
    values = sql.SQL(", ").join(map(sql.Literal, row))
    one = sql.SQL("select * from {} where ({}) = ({})").format(relation, key, values)
    yield f"mart.{name}, by key", _ask(connection, one)
    page = sql.SQL("select * from {} order by {} limit {}").format(relation, key, sql.Literal(PAGE))
    if name == "weblog":
        country, file, line = row
        page = sql.SQL(
            "select * from {} where country = {} and file_id = {} and line_number between {} and {} + {}"
        ).format(relation, *map(sql.Literal, (country, file, line, line, PAGE * 10)))
    yield f"mart.{name}, a page", _ask(connection, page)


def _dashboard(url: str) -> Iterator[Query]:
    """Yield the queries of the dashboard as it opens, each on a connection of its own."""
    known = dashboard.sources(url)
    source, currency = known.source_system[0], known.currency[0]
    months = dashboard.months(url, source, currency, *dashboard.ALWAYS, [])
    category, first, last = months.category[0], months.ordered_month.min(), months.ordered_month.max()
    country = dashboard.countries(url, source, currency)[0]
    period = (source, currency, first, last)
    asked: dict[str, Callable[[], Any]] = {
        "sources": partial(dashboard.sources, url),
        "freshness": partial(dashboard.freshness, url),
        "countries": partial(dashboard.countries, url, source, currency),
        "months": partial(dashboard.months, url, *period, []),
        "months of a category": partial(dashboard.months, url, *period, [category]),
        "months of a country": partial(dashboard.months, url, *period, [], country),
        "months of a segment": partial(dashboard.months, url, *period, [], None, "loyal"),
        "products": partial(dashboard.products, url, source, currency, None, []),
        "products of a country": partial(dashboard.products, url, source, currency, country, [category]),
        "customers": partial(dashboard.customers, url, source, currency, None, None),
        "customers of a segment": partial(dashboard.customers, url, source, currency, country, "loyal"),
        **{f"all of {name}": partial(dashboard.mart, url, name) for name in dashboard.SHOWN_WHOLE},
    }
    for name, ask in asked.items():
        yield f"dashboard: {name}", ask


def _ask(connection: psycopg.Connection, query: sql.Composed | str) -> Callable[[], Any]:
    text = (query if isinstance(query, str) else query.as_string(connection)).encode()
    return lambda: connection.execute(text).fetchall()
