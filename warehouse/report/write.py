"""Write the report: read the data once, render the page, and replace the file in one step."""

import os
import tempfile
from base64 import b64encode
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from warehouse.errors import WarehouseError, visible
from warehouse.model.mart import answers, format_cell, read_metrics, title_of
from warehouse.report import figures, moving
from warehouse.report.catalogue import describe
from warehouse.report.read import Content, read
from warehouse.runs.audit import code_version

TEMPLATES = Path(__file__).parent / "templates"


class ReportNotWritten(WarehouseError):
    """The report's file cannot be written."""


def write(url: str, path: Path) -> Path:
    """Write the report about the warehouse at `url` to `path`; returns the absolute path.

    Raises:
        ConnectionFailed, SchemaOutdated: the warehouse cannot be read.
        ReportNotWritten: the file cannot be written.
    """
    page = render(read(url))
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".report-", delete=False
        ) as file:
            file.write(page)
        draft = Path(file.name)
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        raise ReportNotWritten(
            f"The report cannot be written to {path}: {os.strerror(error.errno or 0)}.",
            hint="Choose another file, or free some space.",
        ) from None
    return path


def render(content: Content) -> str:
    """Render the page as HTML."""
    environment = Environment(
        loader=PackageLoader("warehouse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "money": _money,
        "number": _number,
        "minute": _minute,
        "bytes": _bytes,
        "seconds": _seconds,
        "line": lambda value: visible(str(value)),
        "cell": format_cell,
        "heading": title_of,
    }
    daily_sales, category_trends = moving.daily_sales(content), moving.category_trends(content)
    scripts = [(TEMPLATES / "search.js").read_text()]
    if daily_sales or category_trends:
        scripts += [moving.library(), (TEMPLATES / "moving.js").read_text()]
    script = "\n".join(scripts)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    groups = figures.sales(content)
    return environment.get_template("report.html.j2").render(
        content=content,
        figures=figures,
        sales=groups,
        headlines=figures.headlines(content, groups),
        attention=figures.attention(content),
        code_version=code_version(),
        notices=figures.notices(content),
        answers=answers(),
        metrics=list(read_metrics().values()),
        catalogue=describe(content.catalogue),
        daily_sales=daily_sales,
        category_trends=category_trends,
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _minute(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} s"


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"
