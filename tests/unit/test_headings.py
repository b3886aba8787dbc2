"""Tables of the command line have headings for people, not names of fields."""

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

import cli.output
from cli.status import _show

NOW = "2026-11-28 12:00:00"


@pytest.mark.parametrize(
    ("field", "heading"),
    [
        ("oldest_at", "oldest (UTC)"),
        ("table_name", "table"),
        ("run_id", "run"),
        ("rows_cursor_missed", "cursor missed"),
        ("is_repaired", "repaired"),
        ("has_personal_data", "personal data"),
        ("user_count", "user"),
        ("seconds", "seconds"),
        ("issue", "issue"),
        ("hash", "hash"),
        ("format", "format"),
    ],
)
def test_heading_says_what_a_field_holds(field: str, heading: str) -> None:
    assert cli.output.heading(field) == heading


def test_no_table_of_status_shows_a_name_of_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    target = StringIO()
    console = Console(file=target, highlight=False, width=400)
    monkeypatch.setattr(cli.output, "out", console)

    def row(*fields: str) -> list[dict[str, Any]]:
        return [dict.fromkeys(fields, "x")]

    counts = [f"rows_{name}" for name in ("read", "inserted", "updated", "expired", "deleted", "quarantined")]
    _show(
        {
            "stack": row("part", "state", "where"),
            "runs": row(
                "run_id", "flow", "status", "started_at", "duration_seconds", "message", "hint", *counts
            ),
            "tables": row(
                "source", "table_name", "complete_at", "verified_since", "changed_at", "row_count_estimate"
            ),
            "verifications": [],
            "stale": row("table_name", "source", "rows", "reason"),
            "reconciled": [],
            "quarantine": row("source", "entity", "rule", "waiting_count", "oldest_at", "newest_at"),
            "unread_files": row("feed", "path", "status", "reason", "hint"),
            "archive": [],
            "live": row("source", "state", "since", "host", "pid", "run_id", "reason"),
        }
    )
    headers = [line for line in target.getvalue().splitlines() if line.startswith("┃")]
    words = [word.strip() for line in headers for word in line.split("┃") if word.strip()]
    assert len(headers) == 7 and "oldest (UTC)" in words
    assert [word for word in words if re.search(r"_| (at|id|name|count)$|^(rows|is|has) ", word)] == []
