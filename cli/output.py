"""Output of `dwh`: tables for people, JSON for scripts, log lines and progress bars for long work."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape

from cli.options import LOG_FORMAT
from warehouse.errors import visible

Rows = Sequence[Mapping[str, Any]]

# A pipe has no width: wide enough that none of our tables folds.
PIPE_WIDTH = 200
# Tables go to stdout, logs and progress to stderr: a pipe gets only the tables.
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def show_line(text: str) -> None:
    """Print a text as one line: control characters, which file names and texts of sources may have, are escaped."""
    out.print(visible(text), markup=False, soft_wrap=True)


def show_table(title: str, rows: Rows, columns: Mapping[str, str] | None = None, empty: str = "none") -> None:
    """Print rows as a table; `columns` maps the fields to show to their headings, by default all to `heading`."""
    from rich.table import Table

    title = escape(visible(title))
    if not rows:
        out.print(f"[bold]{title}[/]: {escape(empty)}\n")
        return
    columns = columns or {name: heading(name) for name in rows[0]}
    # Rich would fold the title of a table at the table's width: print it as a line.
    out.print(f"[bold]{title}[/]")
    table = Table(header_style="bold cyan")
    for name, words in columns.items():
        is_number = any(isinstance(row[name], int | float | Decimal) for row in rows)
        is_short = is_number or any(isinstance(row[name], date) for row in rows)
        table.add_column(words, justify="right" if is_number else "left", overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(_styled(row[name]) for name in columns))
    out.print(table)
    out.print()


def heading(field: str) -> str:
    """Heading of a column for people: started (UTC) for started_at, table for table_name, read for rows_read."""
    if field in _HEADINGS:
        return _HEADINGS[field]
    words = re.sub(r"^(rows|is|has)_|_(at|id|name|count)$", "", field).replace("_", " ")
    return f"{words} (UTC)" if field.endswith("_at") else words


def show_unread_files(files: Sequence[Mapping[str, Any]]) -> None:
    """Print the files of the landing folder that are not read; those that are ignored by their names in one line."""
    ignored = [file["path"] for file in files if file["status"] == "ignored"]
    others = [file for file in files if file["status"] != "ignored"]
    if others:
        columns = {"path": "file", "status": "status", "reason": "why", "hint": "what to do"}
        show_table("Files that are not read", others, columns)
    if ignored:
        more = f" and {len(ignored) - _SHOWN:,} more (--json shows all)" if len(ignored) > _SHOWN else ""
        names = ", ".join(ignored[:_SHOWN])
        out.print(f"[bold]Ignored by name[/]: {escape(visible(names))}{more}\n", soft_wrap=True)


def show_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, default=_encode, ensure_ascii=False, indent=2) + "\n")


def format_value(value: object) -> str:
    """Format a value for a terminal table: thousands separators, UTC seconds, yes/no; a text in one line."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() | Decimal():
            return f"{value:,.2f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case list() | tuple():
            return ", ".join(map(format_value, value))
        case _:
            return visible(str(value))


_HEADINGS = {"is_tls": "TLS", "request_bytes": "bytes in", "user_agent": "user agent"}
# Names of ignored files in the line; --json has all.
_SHOWN = 10

STYLES = {
    **dict.fromkeys(("succeeded", "equal", "passed", "ok", "up", "loaded"), "green"),
    **dict.fromkeys(("failed", "crashed", "different", "wrong", "missing"), "red"),
    **dict.fromkeys(
        ("stopped", "warned", "running", "skipped", "note", "down", "partial", "stale"), "yellow"
    ),
}


def _styled(value: object) -> str:
    text = escape(format_value(value))
    style = STYLES.get(value) if isinstance(value, str) else None
    return f"[{style}]{text}[/]" if style else text


def _encode(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class _TextLines(logging.Handler):
    """Prints each record as a line, on a terminal above the status line."""

    def emit(self, record: logging.LogRecord) -> None:
        style = (
            "red"
            if record.levelno >= logging.ERROR
            else "yellow"
            if record.levelno >= logging.WARNING
            else "dim"
        )
        message = record.getMessage()
        err.print(f"[{style}]{datetime.now():%H:%M:%S}[/] {escape(message)}", soft_wrap=True)


class _JsonLines(logging.Handler):
    """Prints each record as a line of JSON, with the ids of its run in the audit trail and in Prefect."""

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **getattr(record, "ids", {}),
            "message": record.getMessage(),
        }
        sys.stderr.write(json.dumps(line, default=_encode, ensure_ascii=False) + "\n")


@contextmanager
def show_log(title: str) -> Iterator[Any]:
    """Print the log of flows and tasks to stderr while the block runs; on a terminal with a status line below."""
    logger = logging.getLogger("dwh")
    handler: logging.Handler = _JsonLines() if os.environ.get(LOG_FORMAT) == "json" else _TextLines()
    with err.status(title) as status:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield status
        finally:
            logger.removeHandler(handler)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (what, done, total) that shows a progress bar, or prints lines if stderr is no terminal."""
    if not err.is_terminal:
        yield progress_lines(unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


def progress_lines(unit: str) -> Callable[[str, int, int], None]:
    """Return a function of (what, done, total) that prints a line when an item is started."""
    started: set[str] = set()

    def update(what: str, done: int, total: int) -> None:
        if what not in started:
            started.add(what)
            # A total of 1 means a single step, which has no number of rows.
            err.print(f"{what}: {total:,} {unit}" if total > 1 else what, markup=False)

    return update
