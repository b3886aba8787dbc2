"""The marketing lead sheet: a workbook with a sheet per view, native charts, filters and definitions."""

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

from warehouse.model.mart import Mart, read_marts, read_metrics, title_of
from warehouse.report.figures import source_states
from warehouse.report.read import Content, Row, read
from warehouse.report.write import ReportNotWritten

SUBJECTS = ("Marketing leads", "Sales", "Behaviour", "Customers")
# A text that begins like this becomes a formula when its cell is edited or imported from CSV.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Options for XlsxWriter, so that no text becomes a formula or a link.
TEXTS_AS_THEY_ARE = {
    "options": {"strings_to_formulas": False, "strings_to_urls": False, "remove_timezone": True}
}
LONGEST_NAME = 31
CHARTED = 20
# Charts of tables with more rows are beside the table, not below it.
MOST_ABOVE = 40


def write_sheet(url: str, path: Path) -> Path:
    """Write the marketing lead sheet of the warehouse at `url`, without personal data. Returns the absolute path.

    Raises:
        ConnectionFailed, SchemaOutdated: the warehouse cannot be read.
        ReportNotWritten: the file cannot be written.
    """
    content = read(url)
    return write_whole(path, lambda draft: write_workbook(content, draft))


def write_whole(path: Path, write: Callable[[Path], None], mode: int = 0o644) -> Path:
    """Write a workbook to a temporary file, set its mode, and rename it to `path`. Returns the absolute path.

    Raises:
        ReportNotWritten: the file cannot be written.
    """
    path = path.resolve()
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes it readable by its owner only.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".sheet-", suffix=".xlsx")
        os.close(handle)
        draft = Path(name)
        write(draft)
        draft.chmod(mode)
        draft.replace(path)
    except OSError as error:
        raise ReportNotWritten(
            f"The sheet cannot be written to {path}: {os.strerror(error.errno or 0)}.",
            hint="Choose another file, or free some space.",
        ) from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
    return path


def write_workbook(content: Content, path: Path) -> None:
    """Write an About sheet with definitions, and a sheet for each view."""
    shown = [mart for subject in SUBJECTS for mart in read_marts().values() if _fits(mart, subject)]
    with pd.ExcelWriter(path, engine="xlsxwriter", engine_kwargs=TEXTS_AS_THEY_ARE) as writer:
        book = writer.book
        assert book is not None
        formats = {
            "heading": book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"}),
            "title": book.add_format({"bold": True, "font_size": 14}),
            "amount": book.add_format({"num_format": "#,##0.00"}),
            "share": book.add_format({"num_format": "0.0%"}),
            "count": book.add_format({"num_format": "#,##0"}),
            "units": book.add_format({"num_format": "#,##0.###"}),
            "date": book.add_format({"num_format": "yyyy-mm-dd"}),
            "wrapped": book.add_format({"text_wrap": True, "valign": "top"}),
        }
        _write_about(writer, content, shown, formats)
        for mart in shown:
            _write_view(writer, mart, content.in_groups(content.answers[mart.name]), formats)


def escape_formula(value: object) -> object:
    """Put an apostrophe before a text that looks like a formula; return other values unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def sheet_name(mart: Mart) -> str:
    """Return the name of a view's sheet: as many words of its title as fit."""
    return shorten(mart.title, LONGEST_NAME, placeholder="")


def _fits(mart: Mart, subject: str) -> bool:
    return mart.picture is not None and mart.subject == subject


def _write_about(
    writer: pd.ExcelWriter, content: Content, shown: Sequence[Mart], formats: dict[str, Any]
) -> None:
    assert writer.book is not None
    sheet = writer.book.add_worksheet("About")
    sheet.set_column(0, 0, 34)
    sheet.set_column(1, 1, 100, formats["wrapped"])
    _fit_to_paper(sheet)
    sheet.write(0, 0, "Marketing lead sheet", formats["title"])
    rows = [("Written (UTC)", f"{content.read_at:%Y-%m-%d %H:%M}"), ("Database", content.database)]
    rows += [("Days and months", f"in time zone {content.time_zone}")]
    rows += [
        (f"As of, {row['source_system']}", f"{row['as_of_date']}: day of the newest sale")
        for row in content["as_of"]
    ]
    rows += [
        (f"Complete as of (UTC), {state.source}", _minute(state.complete_at))
        for state in source_states(content)
    ]
    rows += [("", "")]
    rows += [(mart.title, mart.description) for mart in shown]
    rows += [("", "")]
    rows += [
        (metric.title, f"{metric.description}. Unit: {metric.unit}.") for metric in read_metrics().values()
    ]
    for number, (name, text) in enumerate(rows, 2):
        sheet.write_string(number, 0, str(escape_formula(name)))
        sheet.write_string(number, 1, str(escape_formula(text)))


def _write_view(
    writer: pd.ExcelWriter, mart: Mart, groups: Sequence[tuple[str, list[Row]]], formats: dict[str, Any]
) -> None:
    assert writer.book is not None and mart.picture is not None
    name = sheet_name(mart)
    rows = [row for _, found in groups for row in found]
    columns = list(rows[0]) if rows else [column for column in mart.columns if column not in mart.personal]
    frame = pd.DataFrame(
        [[cell_of(row[column]) for column in columns] for row in rows],
        columns=[title_of(column) for column in columns],
    )
    frame.to_excel(writer, sheet_name=name, index=False, header=False, startrow=1)
    sheet = writer.sheets[name]
    _fit_to_paper(sheet)
    for place, column in enumerate(columns):
        sheet.write_string(0, place, title_of(column), formats["heading"])
        width = max([len(title_of(column)), *(len(str(row[column])) for row in rows[:50])], default=10)
        sheet.set_column(place, place, min(max(width + 2, 9), 44), formats.get(_unit(column)))
    sheet.freeze_panes(1, 0)
    if not rows:
        sheet.write_string(1, 0, "Nothing yet, or the marts were not refreshed since: dwh run marts.")
        return
    sheet.autofilter(0, 0, len(rows), len(columns) - 1)
    label, value = (columns.index(column) for column in mart.picture)
    dates = {"num_format": "yyyy-mm-dd"} if _unit(mart.picture[0]) == "date" else {}
    first = 1
    # Put charts below a short table, so that both are readable in print.
    top, left = (len(rows) + 2, 0) if len(rows) <= MOST_ABOVE else (1, len(columns) + 1)
    for group, found in groups:
        last = first + min(len(found), CHARTED) - 1
        title = f"{mart.title}: {group}" if group else mart.title
        chart = writer.book.add_chart({"type": "bar"})
        chart.add_series(
            {
                "name": title_of(mart.picture[1]),
                "categories": [name, first, label, last, label],
                "values": [name, first, value, last, value],
                "gap": 40,
            }
        )
        chart.set_title({"name": title, "overlay": False, "name_font": {"size": 12}})
        chart.set_x_axis({"name": title_of(mart.picture[1]), "num_format": _axis_format(mart.picture[1])})
        chart.set_y_axis({"reverse": True, **dates})
        chart.set_legend({"none": True})
        height = 120 + 22 * (last - first + 1)
        chart.set_size({"width": 720, "height": height})
        sheet.insert_chart(top, left, chart, {"description": f"{title}. {mart.description}"})
        # A row is 20 pixels high.
        top += height // 20 + 2
        first += len(found)


def _axis_format(column: str) -> str:
    return "0%" if _unit(column) == "share" else "#,##0"


def _fit_to_paper(sheet: Any) -> None:
    """Set up printing in landscape, with the table and its chart on one page's width."""
    sheet.set_landscape()
    sheet.set_paper(9)
    sheet.fit_to_pages(1, 0)


def _unit(column: str) -> str:
    metric = read_metrics().get(column)
    if metric is not None:
        return metric.unit
    for end, unit in (
        ("_amount", "amount"),
        ("_share", "share"),
        ("_rate", "share"),
        ("share_of_previous", "share"),
        ("share_of_first", "share"),
        ("_count", "count"),
        ("_date", "date"),
        ("month", "date"),
    ):
        if column.endswith(end):
            return unit
    return ""


def cell_of(value: object) -> object:
    """Convert a value for a cell: times without zone, numerics as floats, texts that are not formulas."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if hasattr(value, "as_tuple"):
        return float(value)  # type: ignore[arg-type]
    return escape_formula(value)


def _minute(value: datetime | None) -> str:
    return "never" if value is None else f"{value:%Y-%m-%d %H:%M}"
