"""Artifacts of a run in Prefect: tables of its loads, checks and verifications, a summary page, and lineage."""

import logging
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from flows.engine import is_tracked, log
from flows.table_assets import COUNTS, changes, show_tables
from warehouse.db.connections import connect
from warehouse.errors import counted, visible
from warehouse.extract.verification import NOT_COMPARED
from warehouse.report.charts import Slot, stacked_columns
from warehouse.runs.status import Rows, RunDetails, read_history, read_run_details
from warehouse.settings import Settings
from warehouse.sources.lineage import read_lineage

GREY = "#8a929b"
COLOURS = {
    "succeeded": "#1f8a4c",
    "stopped": "#b7791f",
    "failed": "#c8372d",
    "crashed": "#7a1f18",
    "cancelled": GREY,
}
FOUND = ("failed", "warned", "not_evaluated")


def link_file(key: str, path: Path, description: str) -> None:
    """Create an artifact that links a file; nothing without Prefect."""
    if not is_tracked():
        return
    from prefect.artifacts import create_link_artifact

    create_link_artifact(link=path.as_uri(), link_text=str(path), key=key, description=description)


def show_run(warehouse_url: str, run_id: int) -> Literal["shown", "no change", "nowhere"]:
    """Create the artifacts of a run from the audit trail, if it changed or found anything. Never raises.

    Returns "nowhere" if the run is not one of Prefect.
    """
    if not is_tracked():
        return "nowhere"
    from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

    try:
        with connect(warehouse_url, autocommit=True) as connection:
            details = read_run_details(connection, run_id)
            flow = details.run["flow"]
            history = read_history(connection, flow)
            # The history includes the rows that the steps of a run changed.
            changed = sum(run["rows_changed"] for run in history if run["run_id"] == run_id)
            if not changed and is_quiet(details):
                return "no change"
            origins = read_lineage({load["source"] for load in details.loads}, Settings.load().sources)
            place = f"postgres://{connection.info.host}/{connection.info.dbname}"
        for name, rows, description in (
            ("loads", details.loads, "What the run did to each table, in rows"),
            ("checks", details.checks, "Results of the data contracts for its batch"),
            (
                "verification",
                details.verifications,
                "Whether each table matches what is recomputed from the layer below",
            ),
            (
                "differences",
                details.differences,
                f"The first {len(details.differences):,} of {details.difference_count:,} rows that differ from "
                "what they should be",
            ),
        ):
            if rows:
                table: Any = [{column: _plain(value) for column, value in row.items()} for row in rows]
                create_table_artifact(
                    key=f"{flow}-{name}", table=table, description=f"{description} (run {run_id})."
                )
        create_markdown_artifact(key=flow, markdown=page(details), description=f"Summary of run {run_id}.")
        create_markdown_artifact(
            key=f"{flow}-history",
            markdown=history_table(flow, history),
            description="Rows and seconds of the last runs.",
        )
        create_image_artifact(
            key=f"{flow}-chart",
            image_url=chart(history),
            description="Rows and seconds of the last runs as a chart.",
        )
        if details.run["status"] == "succeeded":
            show_tables(details.run, place, details.loads, origins)
    except Exception as error:
        # The run has ended and is recorded: it must not fail because Prefect is down.
        log(f"The artifacts of run {run_id} could not be created: {error}", logging.WARNING)
    return "shown"


def is_quiet(details: RunDetails) -> bool:
    """Whether a run ended well, changed nothing and found nothing to look at."""
    return (
        details.run["status"] in ("succeeded", "skipped")
        and not any(changes(load) for load in details.loads)
        and not any(check["outcome"] in FOUND for check in details.checks)
        and not _different(details.verifications)
        and not details.unread_files
    )


def page(details: RunDetails) -> str:
    """Summary of a run in Markdown."""
    run = details.run
    lines = [
        f"# {run['flow']}: {run['status']}",
        "",
        f"Run {run['run_id']}, started {run['started_at']:%Y-%m-%d %H:%M:%S} UTC by {run['launched_by']}, "
        f"code {run['code_version']}.",
    ]
    if run["error"]:
        lines += ["", f"**{_escaped(run['error'])}**", "", _escaped(run["hint"] or "").replace("\n", "\n\n")]
    changed = [load for load in details.loads if changes(load)]
    if details.loads:
        lines += ["", f"## Loads ({len(changed)} of {len(details.loads)} tables changed)", ""]
        lines += [f"| table | {' | '.join(COUNTS)} | seconds |", f"|---|{'---:|' * (len(COUNTS) + 1)}"]
        lines += map(_load, changed)
    lines += _section(
        "Checks that failed or warned", [c for c in details.checks if c["outcome"] in FOUND], _check
    )
    lines += _section("Tables that differ", _different(details.verifications), _verification)
    lines += _section("Files that were not read", details.unread_files, _unread_file)
    if details.checks and not any(check["outcome"] in FOUND for check in details.checks):
        lines += ["", f"All {len(details.checks)} checks passed."]
    compared = [one for one in details.verifications if one["verdict"] != NOT_COMPARED]
    if compared and not _different(compared):
        rows = sum(verification["rows_source"] for verification in compared)
        equal = (
            "equal to what is recomputed from the layer below"
            if details.has_star
            else "equal in source and mirror"
        )
        parts = sum(table["is_part"] for table in details.verified)
        lines += ["", f"Verified: {count_tables(len(compared), parts)}, {counted(rows, 'row')}, {equal}."]
    lines += _section("Large tables: every row verified since", details.verified, _verified_since)
    return "\n".join(lines)


def count_tables(tables: int, parts: int) -> str:
    """Format the number of tables that a run has verified, and of those of which it verified only some key ranges."""
    return counted(tables, "table") + (f" ({parts} of them in part)" if parts else "")


def _verified_since(table: Mapping[str, Any]) -> str:
    since = table["verified_since"]
    return f"{table['table_name']}: " + (
        f"{since:%Y-%m-%d %H:%M:%S} UTC" if since else "a part of it differs"
    )


def history_table(flow: str, history: Rows) -> str:
    """The last runs of a flow in Markdown."""
    lines = [f"# {flow}", "", "| run | status | seconds | read | changed |", "|---:|---|---:|---:|---:|"]
    for run in history:
        seconds = "" if run["duration_seconds"] is None else f"{run['duration_seconds']:.1f}"
        lines.append(
            f"| {run['run_id']} | {run['status']} | {seconds} | {run['rows_read']:,} | {run['rows_changed']:,} |"
        )
    return "\n".join(lines)


def chart(history: Rows) -> str:
    """Chart of rows changed and seconds taken by the last runs, coloured by status: an SVG in a data URI.

    Prefect stores only an image's URL, so the URL holds the image.
    """
    seen = dict.fromkeys(run["status"] for run in history)
    panels = [
        _panel(
            top,
            title,
            [Slot(str(run["run_id"]), "", {run["status"]: run[field] or 0}) for run in history],
            seen,
        )
        for top, title, field in ((30, "rows changed", "rows_changed"), (170, "seconds", "duration_seconds"))
    ]
    legend = "".join(
        f"<text x='{150 + 90 * place}' y='20' fill='{COLOURS.get(status, GREY)}'>\u25a0 {status}</text>"
        for place, status in enumerate(seen)
    )
    drawn = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 720 310' font-family='sans-serif' font-size='11'>"
        f"<path fill='#fff' d='M0 0h720v310H0z'/>{legend}{''.join(panels)}</svg>"
    )
    return "data:image/svg+xml," + quote(drawn, safe=" =:/,;'")


def _panel(top: int, title: str, slots: Sequence[Slot], statuses: Mapping[str, object]) -> str:
    columns = stacked_columns(slots, {status: status for status in statuses})
    if columns is None:
        return f"<text x='40' y='{top}'>{title}: none</text>"
    bars = {
        status: "".join(
            f"M{column.x} {segment.y}h{column.width}v{segment.height}h-{column.width}z"
            for column in columns.columns
            for segment in column.segments
            if segment.series == status
        )
        for status in statuses
    }
    grid = "".join(f"M0 {tick.y}h100" for tick in columns.ticks)
    drawn = "".join(
        f"<path fill='{COLOURS.get(status, GREY)}' d='{path}'/>" for status, path in bars.items() if path
    )
    marks = [(35, top + tick.y + 4, "end", tick.text) for tick in columns.ticks] + [
        (40 + column.middle * 6.7, top + 114, "middle", column.label)
        for column in columns.columns[:: columns.label_every]
    ]
    texts = "".join(
        f"<text x='{x:.0f}' y='{y:.0f}' text-anchor='{anchor}'>{text}</text>" for x, y, anchor, text in marks
    )
    return (
        f"<text x='40' y='{top - 10}'>{title}</text>{texts}<svg x='40' y='{top}' width='670' height='100' "
        "viewBox='0 0 100 100' preserveAspectRatio='none'>"
        f"<path d='{grid}' stroke='#ddd' vector-effect='non-scaling-stroke'/>{drawn}</svg>"
    )


def _section(title: str, rows: Rows, line: Any) -> list[str]:
    return ["", f"## {title}", "", *(f"- {_escaped(visible(line(row)))}" for row in rows)] if rows else []


def _load(load: dict[str, Any]) -> str:
    counts = " | ".join(f"{load[f'rows_{name}']:,}" for name in COUNTS)
    return f"| {load['table_name']} | {counts} | {load['seconds']:.2f} |"


def _check(check: dict[str, Any]) -> str:
    measured = (
        "" if check["measured"] is None else f": {check['measured']:,} of {check['rows_checked'] or 0:,} rows"
    )
    return f"{check['dataset']}, {check['check_name']} ({check['level']}){measured}"


def _unread_file(file: dict[str, Any]) -> str:
    return f"{file['path']} {file['reason']}. {file['hint'] or ''}".rstrip()


def _verification(row: dict[str, Any]) -> str:
    line = f"{row['table_name']}: {row['rows_source']:,} rows expected, {row['rows_mirror']:,} found"
    if row["rows_differing"]:
        line += f", {row['rows_differing']:,} differing, {row['rows_repaired']:,} of them repaired"
    return line


def _different(verifications: Rows) -> Rows:
    return [
        verification for verification in verifications if verification["verdict"] in ("different", "repaired")
    ]


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_[]<>#|" else character for character in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date | datetime) else value
