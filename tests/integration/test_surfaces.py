"""One definition, every surface: report, sheet, dashboard, Grafana, Superset, semantic file and views agree by cell."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import yaml

from tests.integration.test_mart_answers import METRICS, measured
from tests.marts import MartWorld
from warehouse.db.connections import connect
from warehouse.db.roles import READER
from warehouse.model.grafana import panel_queries
from warehouse.model.mart import Mart, answers, format_cell, read_metrics, title_of
from warehouse.report.read import read
from warehouse.report.sheet import escape_formula, write_sheet
from warehouse.report.write import render

ROOT = Path(__file__).parents[2]
Cells = list[list[Any]]


@pytest.fixture(scope="module")
def reader(mart_world: MartWorld) -> Iterator[psycopg.Connection]:
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        connection.execute(f"set role {READER}".encode())
        yield connection


@pytest.fixture(scope="module")
def report(mart_world: MartWorld) -> dict[str, Cells]:
    page = _Tables()
    page.feed(render(read(mart_world.warehouse_url)))
    return page.sections


@pytest.fixture(scope="module")
def sheet(mart_world: MartWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    path = write_sheet(mart_world.warehouse_url, tmp_path_factory.mktemp("sheet") / "leads.xlsx")
    return pd.read_excel(
        path, sheet_name=None, engine="calamine", dtype=object, keep_default_na=False, na_values=[""]
    )


class _Tables(HTMLParser):
    """Texts of the cells of all table bodies, by the id of their section."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, Cells] = {}
        self._open: list[str] = []
        self._place = ""
        self._in_body = False
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._place = dict(attributes).get("id") or ""
        elif tag == "tbody":
            self._in_body = True
        elif tag == "tr" and self._in_body:
            self.sections.setdefault(self._place, []).append([])
        elif tag == "td" and self._in_body:
            self.sections[self._place][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._in_body = False
        elif tag == "td":
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.sections[self._place][-1][-1] += data


def rows_of(frame: pd.DataFrame) -> Cells:
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def rounded(value: Any) -> Any:
    """A value as every surface can hold it: numbers to nine places, days and texts as they are."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal | float | int) and not isinstance(value, bool):
        return round(float(value), 9)
    return value


def all_rounded(rows: Sequence[Sequence[Any]]) -> Cells:
    return [[rounded(value) for value in row] for row in rows]


@pytest.mark.parametrize("mart", answers(), ids=lambda mart: mart.name)
def test_an_answer_is_the_same_everywhere(
    mart_world: MartWorld,
    reader: psycopg.Connection,
    report: dict[str, Cells],
    sheet: dict[str, pd.DataFrame],
    mart: Mart,
) -> None:
    frame = mart_world.answer(mart)
    rows = rows_of(frame)
    names = list(frame.columns)
    assert rows
    if mart.name != "monthly_sales":
        shown = [name for name in names if name not in ("source_system", "currency")]
        assert report[mart.name] == [
            [format_cell(name, row[names.index(name)]) for name in shown] for row in rows
        ]

    found = sheet[mart.title[:31].strip()].iloc[:, : len(names)]
    assert list(found.columns) == [title_of(name) for name in names]
    assert all_rounded(rows_of(found)) == all_rounded(
        [[escape_formula(value) for value in row] for row in rows]
    )

    panels = dict(panel_queries((ROOT / "deployments/grafana/dashboards/answers.json").read_text()))
    assert [list(row) for row in reader.execute(panels[mart.title].encode()).fetchall()] == rows
    _, value = mart.picture or ("", "")
    drawn = next(query for title, query in panels.items() if title.startswith(f"{mart.title}: "))
    assert [row[1] for row in reader.execute(drawn.encode()).fetchall()] == [
        row[names.index(value)] for row in rows
    ]

    columns, query = superset_query(mart)
    assert set(columns) == set(names)
    answered = [dict(zip(columns, row, strict=True)) for row in reader.execute(query.encode()).fetchall()]
    assert answered == [dict(zip(names, row, strict=True)) for row in rows]


def superset_query(mart: Mart) -> tuple[list[str], str]:
    """Columns and SQL of the table's chart, as Superset makes it of chart and dataset."""
    folder = ROOT / "deployments/superset/warehouse"
    chart = yaml.safe_load((folder / "charts" / f"{mart.name}_table.yaml").read_text())
    (asked,) = json.loads(chart["query_context"])["queries"]
    dataset = next(
        one
        for one in map(yaml.safe_load, (path.read_text() for path in (folder / "datasets").rglob("*.yaml")))
        if one["uuid"] == chart["dataset_uuid"]
    )
    order = ", ".join(f"{name} {'asc' if upwards else 'desc'}" for name, upwards in asked["orderby"])
    return asked["columns"], (
        f"select {', '.join(asked['columns'])} from {dataset['schema']}.{dataset['table_name']}"
        f"{' order by ' + order if order else ''} limit {asked['row_limit']}"
    )


def test_total_sales_are_the_independent_answer_on_every_surface(
    mart_world: MartWorld,
    reader: psycopg.Connection,
    report: dict[str, Cells],
    sheet: dict[str, pd.DataFrame],
    dashboard: Callable[[], Any],
) -> None:
    lines = mart_world.raw_lines()
    (expected,) = measured(lines.assign(source_system="shop"), ["source_system", "currency"]).values()
    names = list(mart_world.mart("total_sales").columns)
    (cells,) = report["total_sales"]
    on_page = dict(
        zip([name for name in names if name not in ("source_system", "currency")], cells, strict=True)
    )
    (in_sheet,) = sheet["Total sales"].to_dict("records")
    model = yaml.safe_load((ROOT / "docs/semantic.yaml").read_text())
    expressions = {one["name"]: one["expression"]["dialects"][0]["expression"] for one in model["metrics"]}
    for name in METRICS:
        row = reader.execute(f"select {expressions[name]} from mart.sales as sales".encode()).fetchone()
        assert row == (expected[name],), name
        assert on_page[name] == format_cell(name, expected[name]), name
        assert rounded(in_sheet[title_of(name)]) == rounded(expected[name]), name
    months = mart_world.mart("sales_by_category_month").ordered_month
    app = dashboard()
    app.select_slider[0].set_value((months.min(), months.max())).run()
    shown = {metric.label: metric.value for metric in app.metric}
    for name in ("net_amount", "unit_count", "profit_amount"):
        assert shown[title_of(name)] == format_cell(name, expected[name]), name


def test_ratios_of_the_semantic_file_are_those_of_the_marts(
    mart_world: MartWorld, reader: psycopg.Connection
) -> None:
    model = yaml.safe_load((ROOT / "docs/semantic.yaml").read_text())
    expressions = {one["name"]: one["expression"]["dialects"][0]["expression"] for one in model["metrics"]}
    (total,) = mart_world.mart("total_sales").to_dict("records")
    metrics = read_metrics()
    ratios = [
        name
        for name, metric in metrics.items()
        if metric.ratio and name in expressions and metrics[metric.ratio[0]].dataset == "sales"
    ]
    assert {"return_rate", "discount_rate", "average_order_amount"} <= set(ratios)
    for name in ratios:
        row = reader.execute(f"select {expressions[name]} from mart.sales as sales".encode()).fetchone()
        assert row is not None and rounded(row[0]) == rounded(total[name]), name
    (users,) = (
        reader.execute(f"select {expressions['user_count']} from mart.weblog as weblog".encode()).fetchone()
        or ()
    )
    raw = mart_world.raw_requests().user.nunique()
    assert users == raw


def test_tables_of_the_dashboard_are_the_marts(mart_world: MartWorld, dashboard: Callable[[], Any]) -> None:
    app = dashboard()
    tables = {frozenset(frame.value.columns): frame.value for frame in app.dataframe}
    for name in ("purchase_funnel", "traffic_source_conversion"):
        expected = mart_world.mart(name)
        found = tables[frozenset(expected.columns)][list(expected.columns)]
        assert sorted(all_rounded(rows_of(found)), key=str) == sorted(all_rounded(rows_of(expected)), key=str)
    ranking = mart_world.mart("customer_ranking_masked").sort_values("customer_rank").head(100)
    columns = frozenset(
        [
            "customer_rank",
            "customer_key",
            "customer_country",
            "segment",
            "order_count",
            "net_amount",
            "recency_days",
        ]
    )
    found = tables[columns]
    assert all_rounded(rows_of(found)) == all_rounded(rows_of(ranking[list(found.columns)]))


@pytest.fixture
def dashboard(mart_world: MartWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The page of `dwh dashboard`, opened."""
    testing = pytest.importorskip(
        "streamlit.testing.v1", reason="no dashboard: streamlit is not installed (extra dashboard)"
    )
    from warehouse.dashboard import APP

    monkeypatch.setenv("DWH_WAREHOUSE_URL", mart_world.warehouse_url)
    return lambda: testing.AppTest.from_file(str(APP), default_timeout=60).run()
