"""Rows of several sources and currencies are shown apart, in the report and in the sheet."""

import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from warehouse.model.mart import answers, read_marts
from warehouse.report import figures
from warehouse.report.read import Content
from warehouse.report.sheet import sheet_name, write_workbook

# As mart.customer_ranking orders them: the first of every source before the second ones.
ROWS: list[dict[str, Any]] = [
    {"source_system": source, "currency": currency, "customer_rank": rank, "customer_key": key, "net_amount": amount}
    for source, currency, rank, key, amount in [
        ("north", "EUR", 1, 11, Decimal(90)),
        ("shop", "EUR", 1, 21, Decimal(50)),
        ("shop", "USD", 1, 22, Decimal(70)),
        ("north", "EUR", 2, 12, Decimal(80)),
        ("shop", "USD", 2, 23, Decimal(60)),
    ]
]  # fmt: skip
TOTALS: list[dict[str, Any]] = [
    {"source_system": source, "currency": currency, "order_count": count, "net_amount": Decimal(amount)}
    for source, currency, count, amount in [
        ("north", "EUR", 2, 170),
        ("shop", "EUR", 1, 50),
        ("shop", "USD", 3, 130),
    ]
]
# Those with most orders first.
BY_GROUP = {"shop, USD": [22, 23], "north, EUR": [11, 12], "shop, EUR": [21]}


def content() -> Content:
    empty = {mart.name: [] for mart in answers()}
    nothing: dict[str, list[dict[str, Any]]] = {"as_of": [], "table_freshness": []}
    shown = {**empty, "customer_ranking": ROWS, "total_sales": TOTALS}
    return Content(nothing, datetime.now(UTC), "warehouse", shown, ())


def test_report_shows_each_source_and_currency_once() -> None:
    groups = figures.grouped(content(), read_marts()["customer_ranking"])
    assert {group.title: [row["customer_key"] for row in group.rows] for group in groups} == BY_GROUP
    assert [group.title for group in groups] == list(BY_GROUP)
    assert [bar.share for bar in groups[1].bars] == [100, 88.889]


def test_sheet_draws_each_source_and_currency_by_itself(tmp_path: Path) -> None:
    write_workbook(content(), tmp_path / "leads.xlsx")
    name = sheet_name(read_marts()["customer_ranking"])
    book = pd.read_excel(tmp_path / "leads.xlsx", sheet_name=name, engine="calamine")
    assert list(book["Customer key"].dropna()) == [key for keys in BY_GROUP.values() for key in keys]
    with zipfile.ZipFile(tmp_path / "leads.xlsx") as archive:
        charts = [archive.read(part).decode() for part in archive.namelist() if "charts/chart" in part]
    charts = [chart for chart in charts if "Customer ranking: " in chart]
    # Categories and values of each chart are rows of one group.
    ranges = [("$D$2:$D$3", "$E$2:$E$3"), ("$D$4:$D$5", "$E$4:$E$5"), ("$D$6<", "$E$6<")]
    for chart, group, (labels, values) in zip(charts, BY_GROUP, ranges, strict=True):
        assert group in chart and labels in chart and values in chart
