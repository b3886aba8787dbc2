"""`dwh status`: the local stack, the last runs, the freshness of each table, and the quarantine."""

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json
from warehouse.errors import counted

if TYPE_CHECKING:
    from warehouse.settings import Settings

CALENDAR_DAYS = 14


def status(
    count: Annotated[
        int | None,
        typer.Argument(
            metavar="N",
            min=1,
            max=3660,
            show_default=False,
            help=f"Days that --days shows; default: {CALENDAR_DAYS}.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=10**6, help="How many runs to show.")] = 10,
    days: Annotated[
        bool, typer.Option("--days", help="Show instead which days of each source are loaded.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the local stack, the last runs, the freshness of each table, what is stale by its declaration, the
    quarantine, files that are not read, and the last verification.

    `--days` shows which days of each source are loaded, partial, failed, missing, or stale (loaded before the tables
    that they are made from changed).

    Examples: `dwh status`, `dwh status --days`, `dwh status --days 30`, `dwh status --json | jq '.runs[0].status'`
    """
    from dataclasses import asdict

    from cli.output import show_json
    from flows.databases import WAREHOUSE, embedded_databases, with_urls
    from stack.local import state
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.runs.status import read_status
    from warehouse.settings import Settings
    from warehouse.sources.registry import declared_sources

    if count is not None and not days:
        raise typer.BadParameter(f"{count} is a number of days: give it after --days.")
    given = Settings.load()
    settings = with_urls(given, start=False)
    if days:
        _show_calendar(settings, count or CALENDAR_DAYS, as_json)
        return
    stack = state(settings.home)
    parts = [
        {"part": "PostgreSQL", "state": _up(stack.postgres_is_running), "where": _where(stack.postgres)},
        {"part": "Prefect server", "state": _up(stack.prefect_port), "where": stack.ui_url},
        {"part": "Prefect worker", "state": _up(stack.worker_pid), "where": None},
    ]
    sections: dict[str, Any] = {"stack": parts}
    if stack.postgres_is_running or WAREHOUSE not in embedded_databases(given):
        ensure_migrated(settings.warehouse)
        with connect(settings.warehouse, autocommit=True) as connection:
            sections |= asdict(read_status(connection, declared_sources(settings.sources), runs))
    if as_json:
        show_json(sections)
    else:
        _show(sections)


def _show_calendar(settings: "Settings", days: int, as_json: bool) -> None:
    from datetime import UTC, datetime, timedelta

    from cli.output import show_json, show_line, show_table
    from warehouse.backfill import daily_loads, read_calendar
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated

    ensure_migrated(settings.warehouse)
    last = datetime.now(UTC).date()
    with connect(settings.warehouse, autocommit=True) as connection:
        partitions = read_calendar(connection, daily_loads(settings), last - timedelta(days=days - 1), last)
    if as_json:
        show_json({"partitions": partitions})
        return
    rows: dict[str, dict[str, Any]] = {}
    columns = {"day": "day"}
    for one in partitions:
        row = rows.setdefault(str(one.day), {"day": f"{one.day:%Y-%m-%d %a}"})
        row[one.source] = one.status
        columns[one.source] = one.source
        if one.rows is not None:
            row[f"{one.source} rows"] = one.rows
            columns[f"{one.source} rows"] = "rows"
    show_table("Days (UTC)", list(rows.values()), columns)
    messages: dict[tuple[str, str], list[date]] = {}
    for one in partitions:
        if one.message:
            messages.setdefault((one.source, one.message), []).append(one.day)
    for (source, message), of in messages.items():
        span = f"{of[0]}" if len(of) == 1 else f"{len(of)} days from {of[0]} to {of[-1]}"
        show_line(f"{source} {span}: {message}")


def _show(sections: dict[str, Any]) -> None:
    from cli.output import out, show_line, show_table, show_unread_files

    show_table("Local stack", sections["stack"])
    if "runs" not in sections:
        out.print("No warehouse is running. Start the embedded one with `dwh up`, or set DWH_WAREHOUSE_URL.")
        return
    show_table(
        "Last runs (UTC)",
        sections["runs"],
        {
            "run_id": "run",
            "flow": "flow",
            "status": "status",
            "started_at": "started",
            "duration_seconds": "seconds",
            "rows_read": "read",
            "rows_inserted": "inserted",
            "rows_updated": "updated",
            "rows_expired": "expired",
            "rows_deleted": "deleted",
            "rows_quarantined": "quarantined",
        },
    )
    for run in sections["runs"]:
        if run["message"]:
            show_line(f"Run {run['run_id']}: {run['message']} {run['hint'] or ''}".rstrip())
    if sections["live"]:
        show_table(
            "Live (UTC)",
            sections["live"],
            {
                "source": "source",
                "state": "state",
                "since": "since",
                "host": "host",
                "pid": "process",
                "run_id": "run",
                "reason": "why",
            },
        )
    verdicts = {f"raw.{p['source']}_{p['table_name']}": p["verdict"] for p in sections["verifications"]}
    for table in sections["tables"]:
        table["verified"] = verdicts.get(table["table_name"])
    show_table(
        "Tables (UTC)",
        sections["tables"],
        {
            "table_name": "table",
            "source": "source",
            "complete_at": "complete as of",
            "verified_since": "every row verified since",
            "changed_at": "last changed",
            "row_count_estimate": "table's rows, about",
            "verified": "source = mirror",
        },
    )
    show_table(
        "Stale by declaration (conformed again by the next run)",
        sections["stale"],
        {"table_name": "table", "source": "source", "rows": "rows", "reason": "why"},
        "none",
    )
    _show_reconciled(sections["reconciled"])
    show_table(
        "In quarantine (`dwh quarantine list`)",
        sections["quarantine"],
        {
            "source": "source",
            "entity": "entity",
            "rule": "rule",
            "waiting_count": "waiting",
            "oldest_at": "oldest (UTC)",
            "newest_at": "newest (UTC)",
        },
        "nothing",
    )
    show_unread_files(sections["unread_files"])
    for archive in sections["archive"]:
        show_line(_describe_archive(archive))


def _describe_archive(archive: dict[str, Any]) -> str:
    """Describe up to which run the archive reaches, and how much is waiting for it."""
    text = (
        f"The archive reaches up to run {archive['archived_run_id']} ({archive['archived_at']:%Y-%m-%d %H:%M} UTC)"
        if archive["archived_run_id"]
        else "Nothing is archived yet"
    )
    if archive["pending_runs"]:
        text += (
            f"; waiting for it since {archive['pending_since']:%Y-%m-%d %H:%M} UTC: "
            f"{counted(archive['pending_runs'], 'run')} with {counted(archive['pending_rows'], 'row')} "
            "(`dwh archive` adds them)"
        )
    return f"{text}."


def _show_reconciled(reconciled: list[dict[str, Any]]) -> None:
    """Show the last verdicts on star, web logs and marts: one line, and a table of those that differ."""
    from cli.output import out, show_table

    above = [row for row in reconciled if row["layer"] != "mirror"]
    if not above:
        out.print("[bold]Reconciled[/]: star and marts never (run `dwh reconcile`)\n")
        return
    wrong = [row for row in reconciled if row["verdict"] == "different"]
    when = min(row["verified_at"] for row in above)
    show_table(
        f"Reconciled {when:%Y-%m-%d %H:%M} UTC: tables that differ",
        wrong,
        {
            "table_name": "table",
            "source": "source",
            "rows_expected": "expected",
            "rows_found": "found",
            "rows_differing": "differing",
            "verified_at": "compared",
            "run_id": "run",
        },
        f"none of {len(reconciled)}",
    )


def _up(is_running: object) -> str:
    return "up" if is_running else "down"


def _where(postgres: Any) -> str | None:
    return f"127.0.0.1:{postgres.port}" if postgres.passfile.exists() else None
