"""What a run leaves in Prefect: tables of its loads, checks and proofs, and a page that says how it went."""

import logging
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flows.engine import is_tracked, say
from warehouse.database import connect
from warehouse.status import Evidence, Rows, read_evidence, read_history

COUNTS = ("read", "inserted", "updated", "closed", "deleted", "quarantined")
# Characters of the longest bar.
BAR = 40
FOUND = ("failed", "warned", "not_evaluated")


def show_run(warehouse_url: str, run_id: int) -> None:
    """Create the artifacts of a run from the audit trail; without Prefect nothing, and never a reason to fail."""
    if not is_tracked():
        return
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    try:
        with connect(warehouse_url, autocommit=True) as connection:
            evidence = read_evidence(connection, run_id)
            history = read_history(connection, evidence.run["flow"])
        flow = evidence.run["flow"]
        for name, rows, description in (
            ("loads", evidence.loads, "What the run did to each table, in rows"),
            ("checks", evidence.checks, "What the data contracts said of its batch"),
            ("proof", evidence.proofs, "Whether each table was what the layer below makes of it"),
            ("differences", evidence.differences, "Rows that were not as they should be"),
        ):
            if rows:
                table: Any = [{column: _plain(value) for column, value in row.items()} for row in rows]
                create_table_artifact(
                    key=f"{flow}-{name}", table=table, description=f"{description} (run {run_id})."
                )
        create_markdown_artifact(key=flow, markdown=page(evidence), description=f"How run {run_id} went.")
        create_markdown_artifact(
            key=f"{flow}-history", markdown=chart(flow, history), description="Rows and seconds, run by run."
        )
    except Exception as error:
        # The run is over and recorded; what shows it may be down.
        say(f"The artifacts of run {run_id} could not be made: {error}", logging.WARNING)


def page(evidence: Evidence) -> str:
    """A run as a page in Markdown."""
    run = evidence.run
    lines = [
        f"# {run['flow']}: {run['status']}",
        "",
        f"Run {run['run_id']}, started {run['started_at']:%Y-%m-%d %H:%M:%S} UTC by {run['launched_by']}, "
        f"code {run['code_version']}.",
    ]
    if run["error"]:
        lines += ["", f"**{_escaped(run['error'])}**", "", _escaped(run["advice"] or "")]
    changed = [load for load in evidence.loads if _changes(load)]
    if evidence.loads:
        lines += ["", f"## Loads ({len(changed)} of {len(evidence.loads)} tables changed)", ""]
        lines += [f"| table | {' | '.join(COUNTS)} | seconds |", f"|---|{'---:|' * (len(COUNTS) + 1)}"]
        lines += map(_load, changed)
    lines += _section(
        "Checks that found something", [c for c in evidence.checks if c["outcome"] in FOUND], _check
    )
    lines += _section("Tables that differ", _different(evidence.proofs), _proof)
    if evidence.checks and not any(check["outcome"] in FOUND for check in evidence.checks):
        lines += ["", f"All {len(evidence.checks)} checks passed."]
    if evidence.proofs and not _different(evidence.proofs):
        rows = sum(proof["rows_source"] for proof in evidence.proofs)
        equal = "what the layer below makes of them" if evidence.has_star else "equal in source and mirror"
        lines += ["", f"Proved: {len(evidence.proofs)} tables, {rows:,} rows, {equal}."]
    return "\n".join(lines)


def chart(flow: str, history: Rows) -> str:
    """The last runs of a flow as bars of rows, in Markdown: an image would have to be kept somewhere."""
    most = max((run["rows_changed"] for run in history), default=0)
    lines = [
        f"# {flow}: rows per run",
        "",
        "| run | ended as | seconds | read | changed | |",
        "|---:|---|---:|---:|---:|---|",
    ]
    for run in history:
        seconds = "" if run["duration_seconds"] is None else f"{run['duration_seconds']:.1f}"
        bar = "█" * max(round(BAR * run["rows_changed"] / most), 1) if run["rows_changed"] else ""
        counts = f"{run['rows_read']:,} | {run['rows_changed']:,}"
        lines.append(f"| {run['run_id']} | {run['status']} | {seconds} | {counts} | {bar} |")
    return "\n".join(lines)


def _section(title: str, rows: Rows, told: Any) -> list[str]:
    return ["", f"## {title}", "", *(f"- {_escaped(told(row))}" for row in rows)] if rows else []


def _load(load: dict[str, Any]) -> str:
    counts = " | ".join(f"{load[f'rows_{name}']:,}" for name in COUNTS)
    return f"| {load['table_name']} | {counts} | {load['seconds']:.2f} |"


def _check(check: dict[str, Any]) -> str:
    measured = (
        "" if check["measured"] is None else f": {check['measured']:,} of {check['rows_checked'] or 0:,} rows"
    )
    return f"{check['dataset']}, {check['check_name']} ({check['level']}){measured}"


def _proof(proof: dict[str, Any]) -> str:
    said = f"{proof['table_name']}: {proof['rows_source']:,} rows there, {proof['rows_mirror']:,} here"
    if proof["rows_differing"]:
        said += f", {proof['rows_differing']:,} differing, {proof['rows_repaired']:,} of them mended"
    return said


def _different(proofs: Rows) -> Rows:
    return [proof for proof in proofs if proof["verdict"] in ("different", "repaired")]


def _changes(load: dict[str, Any]) -> int:
    return sum(load[f"rows_{name}"] for name in COUNTS[1:])


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_[]<>#|" else character for character in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date | datetime) else value
