"""The report in a real browser: numbers are those of the marts, no network; phone, keyboard, print."""

from pathlib import Path

import pytest

from tests.browser import visit
from tests.marts import MartWorld
from warehouse.features import build
from warehouse.model.mart import answers, format_cell
from warehouse.report import write as report
from warehouse.report.world import country_paths
from warehouse.runs.audit import start_run


@pytest.fixture(scope="module")
def page_path(mart_world: MartWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with start_run(mart_world.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    return report.write(mart_world.warehouse_url, tmp_path_factory.mktemp("report") / "report.html")


def test_numbers_on_the_page_are_those_of_the_marts(mart_world: MartWorld, page_path: Path) -> None:
    assert page_path.stat().st_size < 3_000_000
    with visit(page_path.as_uri()) as opened:
        read = """
            () => Object.fromEntries([...document.querySelectorAll('section[id]')].map(section => [
                section.id,
                [...section.querySelectorAll('tbody tr')].map(row => [...row.children].map(cell => cell.textContent)),
            ]))
        """
        shown = opened.page.evaluate(read)
        charts = opened.page.evaluate(
            "[...document.querySelectorAll('svg.plot rect, svg.bar rect')]"
            ".filter(rect => rect.getBoundingClientRect().width).length"
        )
    assert (opened.errors, opened.requests) == ([], [page_path.as_uri()])
    assert charts > 100
    for mart in answers():
        if mart.name == "monthly_sales":
            continue
        frame = mart_world.answer(mart)
        columns = [name for name in frame.columns if name not in ("source_system", "currency")]
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        assert shown.get(mart.name, []) == [
            [format_cell(name, row[name]) for name in columns] for row in rows
        ], mart.name


def test_pictures_move_and_the_map_has_every_country_that_has_users(
    mart_world: MartWorld, page_path: Path
) -> None:
    with visit(page_path.as_uri()) as opened:
        page = opened.page
        page.wait_for_selector(".moving figure svg path", state="attached")
        drawn = page.locator(".moving").first.locator("figure svg")
        drawn.scroll_into_view_if_needed()
        before = drawn.inner_html()
        # Drag over the last third of the overview, below the chart itself.
        box = drawn.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] - 45)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + box["height"] - 45, steps=5)
        page.mouse.up()
        page.wait_for_function(
            "before => document.querySelector('.moving figure svg').innerHTML !== before", arg=before
        )
        titles = page.eval_on_selector_all(
            ".world path title", "all => all.map(one => one.textContent.split(':')[0])"
        )
    assert (opened.errors, opened.requests) == ([], [page_path.as_uri()])
    countries = mart_world.mart("countries_by_logged_users")
    logged = countries[countries.user_count > 0]
    expected = [row.country_name for row in logged.itertuples() if row.country in country_paths()]
    assert sorted(titles) == sorted(expected) and len(titles) > 10


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_a_phone_and_is_read_in_the_dark(page_path: Path, dark: bool) -> None:
    with visit(page_path.as_uri(), width=360, dark=dark) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
        background, ink = opened.page.evaluate(
            "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
        )
    light, written = (sum(map(int, color[4:-1].split(","))) for color in (background, ink))
    assert light < written if dark else light > written


def test_catalogue_is_searched_by_keyboard_alone(page_path: Path) -> None:
    with visit(page_path.as_uri()) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        for _ in range(400):
            if page.evaluate("document.activeElement.id") == "search":
                break
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.type("mart.customer_rfm mart.sales_by_day")
        assert page.locator("#found").text_content().startswith("1 of ")
        names = page.eval_on_selector_all(
            ".entry:not([hidden]) summary code", "all => all.map(one => one.textContent)"
        )
        assert names == ["mart.customer_rfm"]
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator(".entry[open] tbody tr").first.is_visible()
    assert opened.errors == []


def test_printed_page_has_its_pictures(page_path: Path) -> None:
    with visit(page_path.as_uri()) as opened:
        opened.page.emulate_media(media="print")
        assert not opened.page.locator("nav").is_visible()
        assert opened.page.locator("svg.plot").first.is_visible()
        assert len(opened.page.pdf()) > 50_000
