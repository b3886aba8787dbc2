"""Names of files and texts of sources may have line ends and escape codes: what shows them forges and obeys nothing."""

import logging
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cli.output
from cli.explain import show_tree
from cli.main import _explain
from flows.artifacts import page
from flows.engine import log
from warehouse.errors import visible
from warehouse.explain.node import Node
from warehouse.files.lake import LakeError, reading
from warehouse.runs.alerts.compose import Alert, compose
from warehouse.runs.status import RunDetails

NAME = "a\n20:00:00 all is well\x1b[2J\u202egol.b\u2028"
SHOWN = r"a\n20:00:00 all is well\x1b[2J\u202egol.b\u2028"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What the command line has printed."""
    target = StringIO()
    console = Console(file=target, highlight=False, width=300)
    monkeypatch.setattr(cli.output, "out", console)
    monkeypatch.setattr(cli.output, "err", console)
    return target


def test_a_line_shows_what_would_end_it() -> None:
    assert visible(NAME) == SHOWN
    assert visible("Zürich, 東京, 😀: 100 %") == "Zürich, 東京, 😀: 100 %"


def test_tables_show_names_in_one_line(screen: StringIO) -> None:
    cli.output.show_table(NAME, [{"path": NAME, "names": [NAME]}])
    cli.output.show_table(NAME, [])
    cli.output.show_unread_files(
        [
            {"path": NAME, "status": "unread", "reason": NAME, "hint": NAME},
            {"path": NAME, "status": "ignored", "reason": NAME, "hint": NAME},
        ]
    )
    cli.output.show_line(NAME)
    show_tree([Node(NAME, {NAME: NAME}, (Node(NAME, {}),))], as_json=False)
    printed = screen.getvalue()
    assert printed.count(SHOWN) == 13
    assert "\x1b" not in printed and "\n20:00:00" not in printed


def test_log_lines_and_errors_show_names_in_one_line(screen: StringIO, tmp_path: Path) -> None:
    with cli.output.show_log("test"):
        log(f"{NAME}: it is a copy", logging.WARNING)
    with pytest.raises(LakeError) as raised:
        reading(tmp_path / NAME)
    _explain(raised.value)
    # Of an error that somebody else has worded, lines stay lines.
    _explain(ValueError("one\nsecond \x1b[31m"))
    printed = screen.getvalue()
    assert f"{SHOWN}: it is a copy" in printed and f"{SHOWN} was removed or replaced" in printed
    assert "\nsecond \\x1b[31m" in printed
    assert "\x1b" not in printed


def test_mail_shows_names_in_one_line() -> None:
    alert = Alert(
        "files not read", "ingest-weblogs", "", "1 file", datetime.now(UTC), details=[f"{NAME} is a pipe"]
    )
    mail = compose(alert)
    assert f"- {SHOWN} is a pipe" in mail.body_text
    assert f"{SHOWN} is a pipe" in mail.body_html


def test_page_of_a_run_shows_names_in_one_line() -> None:
    run: dict[str, Any] = {
        "flow": "ingest-weblogs", "status": "succeeded", "run_id": 1, "started_at": datetime.now(UTC),
        "launched_by": "me", "code_version": "1", "error": None,
    }  # fmt: skip
    file = {"path": NAME, "status": "unread", "reason": "is a pipe", "hint": "Move it."}
    shown = page(RunDetails(run, [], [], [], [], 0, [file]))
    assert "\n20:00:00" not in shown and "\x1b" not in shown
    assert len([line for line in shown.splitlines() if "is a pipe" in line and "all is well" in line]) == 1
