"""The marketing lead sheet: a sheet for every view, formulas are escaped, and its charts are native."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.marts import MartWorld
from warehouse.model.mart import answers
from warehouse.report.sheet import escape_formula, write_sheet


@pytest.fixture(scope="module")
def sheet(mart_world: MartWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A product's name is whatever somebody typed.
    mart_world.pipeline.warehouse.execute(
        "update dwh.dim_product set name = '=cmd|''/c calc''!A1' where is_current and product_id = ("
        "select product_id from mart.top_sellers where product_rank = 1 limit 1)"
    )
    return write_sheet(mart_world.warehouse_url, tmp_path_factory.mktemp("sheet") / "leads.xlsx")


def test_every_view_has_a_sheet(sheet: Path) -> None:
    book = pd.read_excel(sheet, sheet_name=None, engine="calamine")
    assert len(book) == 1 + len(answers())
    assert next(iter(book)) == "About"
    assert list(book)[1:5] == [
        "Monthly sales of the last year", "Top 5 devices by users", "Countries by logged users",
        "Top 5 most viewed products in",
    ]  # fmt: skip


def test_cells_that_look_like_formulas_are_text(sheet: Path) -> None:
    with zipfile.ZipFile(sheet) as archive:
        pages = [name for name in archive.namelist() if name.startswith("xl/worksheets/sheet")]
        assert not any(b"<f>" in archive.read(name) for name in pages)
        texts = archive.read("xl/sharedStrings.xml").decode()
        charts = [name for name in archive.namelist() if name.startswith("xl/charts/chart")]
    assert "&apos;=cmd" in texts or "'=cmd" in texts
    assert "<t>=cmd" not in texts
    assert len(charts) == len(answers())
    for start in "=+-@":
        assert escape_formula(f"{start}1") == f"'{start}1"
    assert (escape_formula("plain"), escape_formula(-1), escape_formula(None)) == ("plain", -1, None)


def test_about_says_definitions_and_as_of(mart_world: MartWorld, sheet: Path) -> None:
    about = pd.read_excel(sheet, sheet_name="About", engine="calamine", header=None).astype(str)
    told = dict(zip(about[0], about[1], strict=True))
    assert told["As of, shop"].startswith(str(mart_world.mart("as_of").as_of_date[0]))
    assert told["Net sales"].startswith("Sales after discount: lines that were not cancelled")
