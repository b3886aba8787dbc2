"""What `dwh` prints: tables for people, JSON for scripts, and a running account of long work."""

import json
import logging
import os
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

Rows = Sequence[Mapping[str, Any]]

LOG_FORMAT = "DWH_LOG_FORMAT"
# A pipe has no width: wide enough that no table of ours folds.
PIPE_WIDTH = 200
# Tables go to stdout, what is told while working to stderr: a pipe gets only the former.
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def show_table(title: str, rows: Rows, columns: Mapping[str, str] | None = None, empty: str = "none") -> None:
    """Print rows as a table; `columns` are the fields to show and their headings."""
    from rich.table import Table

    if not rows:
        out.print(f"[bold]{escape(title)}[/]: {escape(empty)}\n")
        return
    columns = columns or {name: name.replace("_", " ") for name in rows[0]}
    # Not as the table's title, which would fold at the table's width.
    out.print(f"[bold]{escape(title)}[/]")
    table = Table(header_style="bold cyan")
    for name, heading in columns.items():
        is_number = any(isinstance(row[name], int | float | Decimal) for row in rows)
        is_short = is_number or any(isinstance(row[name], date) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(_styled(row[name]) for name in columns))
    out.print(table)
    out.print()


def show_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, default=_encode, ensure_ascii=False, indent=2) + "\n")


def told(value: object) -> str:
    """A value as a person reads it."""
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
            return ", ".join(map(told, value))
        case _:
            return str(value)


STYLES = {
    **dict.fromkeys(("succeeded", "equal", "passed", "ok", "up", "loaded"), "green"),
    **dict.fromkeys(("failed", "crashed", "different", "wrong", "missing"), "red"),
    **dict.fromkeys(
        ("stopped", "warned", "running", "skipped", "note", "down", "partial", "stale"), "yellow"
    ),
}


def _styled(value: object) -> str:
    text = escape(told(value))
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


class _Narrator(logging.Handler):
    """Prints each record as a line, above the status line where there is a terminal."""

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
    """Prints each record as a line of JSON, with the ids that tie it to audit trail, Prefect and mail."""

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **getattr(record, "known", {}),
            "message": record.getMessage(),
        }
        sys.stderr.write(json.dumps(line, default=_encode, ensure_ascii=False) + "\n")


def logs_json() -> bool:
    """Whether what is told while working is told to machines."""
    return os.environ.get(LOG_FORMAT) == "json"


@contextmanager
def narrated(doing: str) -> Iterator[Any]:
    """Tell on stderr what flows and steps say while the block runs; on a terminal with a line that moves."""
    logger = logging.getLogger("dwh")
    narrator: logging.Handler = _JsonLines() if logs_json() else _Narrator()
    with err.status(doing) as status:
        logger.setLevel(logging.INFO)
        logger.addHandler(narrator)
        try:
            yield status
        finally:
            logger.removeHandler(narrator)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that is told (what, done, total) and shows it as a bar, on a terminal; else as a few lines."""
    if not err.is_terminal:
        yield told_lines(unit)
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

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def told_lines(unit: str) -> Callable[[str, int, int], None]:
    """Progress as lines: one for each thing that is begun."""
    begun: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.add(what)
            err.print(f"{what}: {total:,} {unit}", markup=False)

    return tell
