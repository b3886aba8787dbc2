"""The report in a real browser: numbers are those of the marts, no network; phone, keyboard, print."""

from pathlib import Path

import pytest

from tests.browser import visit
from tests.marts import MartWorld
from warehouse.features import build
from warehouse.model.mart import answers, format_cell, title_of
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
        # Between columns of cards and the card below them.
        gaps = opened.page.evaluate(
            "[...document.querySelectorAll('.wide')].filter(each => each.nextElementSibling?.matches('.card'))"
            ".map(each => each.nextElementSibling.getBoundingClientRect().top"
            " - Math.max(...[...each.children].map(card => card.getBoundingClientRect().bottom)))"
        )
    assert (opened.errors, opened.requests) == ([], [page_path.as_uri()])
    assert charts > 100
    assert gaps and min(gaps) > 10
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


# Tables of which some cell is cut off or has to be scrolled to, with all parts of the page opened.
CUT_TABLES = """
    () => {
        document.querySelectorAll('details').forEach(each => each.open = true);
        return [...document.querySelectorAll('.table')].filter(
            table => table.scrollWidth > table.clientWidth + 1
                || [...table.querySelectorAll('td')].some(cell => cell.getBoundingClientRect().right > innerWidth)
        ).map(table => table.querySelector('table').className || table.textContent.slice(0, 80));
    }
"""


# Texts with less contrast than 4.5 to 1 (WCAG AA), and pictures without a text that says what they show.
UNREADABLE = """
    () => {
        const rgba = (color) => {
            const parts = color.match(/[\\d.]+/g).map(Number);
            const scale = color.startsWith('color(srgb') ? 255 : 1;
            return [...parts.slice(0, 3).map((part) => part * scale), parts[3] ?? 1];
        };
        const luminance = (color) => {
            const [r, g, b] = color.slice(0, 3).map((part) => part / 255)
                .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            for (let each = element; each; each = each.parentElement) {
                const color = rgba(getComputedStyle(each).backgroundColor);
                if (color[3] > 0.99) return color;
            }
            return [255, 255, 255];
        };
        const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
        const texts = [...document.querySelectorAll('body *:not(svg *, script, noscript)')]
            .filter((each) => [...each.childNodes].some(isText) && each.getClientRects().length);
        const pale = texts.filter((each) => {
            let opacity = 1;
            for (let over = each; over; over = over.parentElement) opacity *= getComputedStyle(over).opacity;
            const back = behind(each);
            const ink = rgba(getComputedStyle(each).color).slice(0, 3)
                .map((part, n) => part * opacity + back[n] * (1 - opacity));
            const [light, dark] = [luminance(ink), luminance(back)].sort((a, b) => b - a);
            return (light + 0.05) / (dark + 0.05) < 4.5;
        });
        const silent = [...document.querySelectorAll('svg, figure')].filter(
            (each) => !each.closest('[aria-hidden=true]') && !each.closest('[aria-label]'));
        const named = (each) => `${each.tagName} ${each.className} ${each.textContent}`;
        return [texts.length > 500, ...[...pale, ...silent].map(named)];
    }
"""


def test_page_is_read_on_a_phone_without_scrolling_sideways_and_with_contrast_in_light_and_dark(
    mart_world: MartWorld, page_path: Path
) -> None:
    with visit(page_path.as_uri(), width=390) as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(CUT_TABLES) == []
        # Names of metrics are whole.
        assert (
            page.eval_on_selector_all(
                "td[data-label=Metric] code",
                "names => names.map(name => name.getClientRects().length).filter(lines => lines > 1)",
            )
            == []
        )
        # Months stand below their category, each in sight and with its name.
        months = page.eval_on_selector_all(
            "table.heat:not(.long) tbody tr:first-child td",
            """cells => cells.map(cell => [getComputedStyle(cell, '::before').content.slice(1, -1),
                cell.getBoundingClientRect().right <= innerWidth && cell.scrollWidth <= cell.clientWidth])""",
        )
        assert months == [
            [f"{month:%b %y}", True] for month in mart_world.mart("monthly_sales").month.drop_duplicates()
        ]
        # Each cell of a card says its heading, as the table on a wide screen does.
        (card,) = page.eval_on_selector_all(
            "#total_sales tbody tr",
            """rows => rows.map(row => [...row.children].map(
                cell => [getComputedStyle(cell, '::before').content.slice(1, -1), cell.textContent]))""",
        )
        assert page.locator(".moving figure svg").first.is_visible()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(UNREADABLE) == [True], scheme
            background, ink = page.evaluate(
                "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
            )
            light, written = (sum(map(int, color[4:-1].split(","))) for color in (background, ink))
            assert light < written if scheme == "dark" else light > written
    (row,) = mart_world.mart("total_sales").drop(columns=["source_system", "currency"]).to_dict("records")
    assert card == [[title_of(name), format_cell(name, value)] for name, value in row.items()]


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


def test_printed_page_has_its_pictures_and_tables_in_dark_ink_and_none_is_cut(page_path: Path) -> None:
    # As wide as A4 between its margins.
    with visit(page_path.as_uri(), width=700, dark=True) as opened:
        page = opened.page
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert page.locator("svg.plot").first.is_visible()
        assert page.locator("#sales_by_weekday td").first.is_visible()
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        drawn = page.locator(".moving svg text").first
        assert drawn.evaluate("text => getComputedStyle(text).fill") == "rgb(98, 106, 115)"
        assert len(page.pdf()) > 50_000
        assert page.evaluate(CUT_TABLES) == []
