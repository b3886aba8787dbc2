"""One definition, every surface: report, sheet, dashboard, Grafana, Superset, semantic file and views agree by cell."""

from collections.abc import Iterator, Sequence
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
from warehouse.model.superset import bar_metric, chart_queries
from warehouse.report.read import read
from warehouse.report.sheet import escape_formula, sheet_name, write_sheet
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


@pytest.fixture(scope="module")
def charts() -> dict[str, str]:
    """SQL of each of Superset's charts by its title, of the files that it imports."""
    folder = ROOT / "deployments/superset/warehouse"
    return chart_queries(
        {
            str(path.relative_to(folder)): yaml.load(path.read_text(), yaml.CSafeLoader)
            for path in folder.rglob("*.yaml")
        }
    )


@pytest.fixture(scope="module")
def semantic() -> dict[str, str]:
    """Expression of each metric of the semantic file by its name."""
    model = yaml.load((ROOT / "docs/semantic.yaml").read_text(), yaml.CSafeLoader)
    return {one["name"]: one["expression"]["dialects"][0]["expression"] for one in model["metrics"]}


@pytest.fixture(scope="module")
def dashboard(mart_world: MartWorld) -> Iterator[Any]:
    """The page of `dwh dashboard`, opened."""
    testing = pytest.importorskip(
        "streamlit.testing.v1", reason="no dashboard: streamlit is not installed (extra dashboard)"
    )
    from warehouse.dashboard import APP

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DWH_WAREHOUSE_URL", mart_world.warehouse_url)
        yield testing.AppTest.from_file(str(APP), default_timeout=240).run()


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
    charts: dict[str, str],
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

    found = sheet[sheet_name(mart)].iloc[:, : len(names)]
    assert list(found.columns) == [title_of(name) for name in names]
    assert all_rounded(rows_of(found)) == all_rounded(
        [[escape_formula(value) for value in row] for row in rows]
    )

    panels = dict(panel_queries((ROOT / "deployments/grafana/dashboards/answers.json").read_text()))
    assert [list(row) for row in reader.execute(panels[mart.title].encode()).fetchall()] == rows
    _, value = mart.picture or ("", "")
    drawn = next(query for title, query in panels.items() if title.startswith(f"{mart.title}: "))
    bars = reader.execute(drawn.encode()).fetchall()
    assert [row[1] for row in bars] == [row[names.index(value)] for row in rows]
    assert len({row[0] for row in bars}) == len(bars), "bars of the same name"

    cursor = reader.execute(charts[mart.title].encode())
    columns = [column.name for column in cursor.description or ()]
    assert set(columns) == set(names)
    assert [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()] == [
        dict(zip(names, row, strict=True)) for row in rows
    ]
    value, groups = bar_metric(mart)
    bars = next(query for title, query in charts.items() if title.startswith(f"{mart.title}: "))
    whole = mart_world.mart(mart.shown)
    if mart.sequence not in (None, groups[0]):
        whole[groups[0]] = [f"{row[mart.sequence]} {row[groups[0]]}" for row in whole.to_dict("records")]
    sums = whole.groupby(groups, dropna=False)[value].sum().sort_values(ascending=False)
    sums = sums.head(200 if mart.sequence else 30)
    found = reader.execute(bars.encode()).fetchall()
    assert [rounded(row[-1]) for row in found] == [rounded(each) for each in sums]
    assert {tuple(map(str, row[:-1])) for row in found} <= {
        tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)
        for key in whole.groupby(groups, dropna=False).groups
    }


def test_total_sales_are_the_independent_answer_on_every_surface(
    mart_world: MartWorld,
    reader: psycopg.Connection,
    report: dict[str, Cells],
    sheet: dict[str, pd.DataFrame],
    semantic: dict[str, str],
    dashboard: Any,
) -> None:
    lines = mart_world.raw_lines()
    (expected,) = measured(lines.assign(source_system="shop"), ["source_system", "currency"]).values()
    names = list(mart_world.mart("total_sales").columns)
    (cells,) = report["total_sales"]
    on_page = dict(
        zip([name for name in names if name not in ("source_system", "currency")], cells, strict=True)
    )
    (in_sheet,) = sheet["Total sales"].to_dict("records")
    for name in METRICS:
        row = reader.execute(f"select {semantic[name]} from mart.sales as sales".encode()).fetchone()
        assert row == (expected[name],), name
        assert on_page[name] == format_cell(name, expected[name]), name
        assert rounded(in_sheet[title_of(name)]) == rounded(expected[name]), name
    months = mart_world.mart("sales_by_category_month").ordered_month
    dashboard.select_slider[0].set_value((months.min(), months.max())).run()
    shown = {metric.label: metric.value for metric in dashboard.metric}
    for name in ("net_amount", "unit_count", "profit_amount"):
        assert shown[title_of(name)] == format_cell(name, expected[name]), name


def test_ratios_of_the_semantic_file_are_those_of_the_marts(
    mart_world: MartWorld, reader: psycopg.Connection, semantic: dict[str, str]
) -> None:
    (total,) = mart_world.mart("total_sales").to_dict("records")
    metrics = read_metrics()
    ratios = [
        name
        for name, metric in metrics.items()
        if metric.ratio and name in semantic and metrics[metric.ratio[0]].dataset == "sales"
    ]
    assert {"return_rate", "discount_rate", "average_order_amount"} <= set(ratios)
    for name in ratios:
        row = reader.execute(f"select {semantic[name]} from mart.sales as sales".encode()).fetchone()
        assert row is not None and rounded(row[0]) == rounded(total[name]), name
    (users,) = (
        reader.execute(f"select {semantic['user_count']} from mart.weblog as weblog".encode()).fetchone()
        or ()
    )
    raw = mart_world.raw_requests().user.nunique()
    assert users == raw


def test_tables_of_the_dashboard_are_the_marts(mart_world: MartWorld, dashboard: Any) -> None:
    tables = {frozenset(frame.value.columns): frame.value for frame in dashboard.dataframe}
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
