"""`dwh status`: what runs, what ran, how fresh each table is, and what waits in quarantine."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from warehouse.settings import Settings

USUAL_DAYS = 14


def status(
    runs: Annotated[int, typer.Option(min=1, max=10**6, help="How many runs to show.")] = 10,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3660, help="Show a calendar of so many days instead; 14 unless told."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the local stack, the last runs, how fresh each table is, quarantine and proofs.

    `--days` shows which days of each feed are loaded, partial, failed, missing, or stale (loaded before what they are
    made from changed).

    Examples: `dwh status`, `dwh status --days`, `dwh status --runs 3`, `dwh status --json | jq '.runs[0].status'`
    """
    from dataclasses import asdict

    from cli.output import show_json
    from flows.databases import found, uses_embedded
    from stack.local import state
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.runs.status import read_status
    from warehouse.settings import Settings

    settings = Settings.load()
    if days is not None:
        _show_calendar(found(settings), days, as_json)
        return
    stack = state(settings.home)
    parts = [
        {"part": "PostgreSQL", "state": _up(stack.postgres_is_running), "where": _where(stack.postgres)},
        {"part": "Prefect server", "state": _up(stack.prefect_port), "where": stack.ui_url},
        {"part": "Prefect worker", "state": _up(stack.worker_pid), "where": None},
    ]
    told: dict[str, Any] = {"stack": parts}
    if stack.postgres_is_running or not uses_embedded(settings):
        url = found(settings).warehouse
        ensure_migrated(url)
        with connect(url, autocommit=True) as connection:
            told |= asdict(read_status(connection, runs))
    if as_json:
        show_json(told)
    else:
        _show(told)


def with_usual_days(arguments: list[str]) -> list[str]:
    """`--days` without a number means two weeks."""
    told = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        told.append(argument)
        if argument == "--days" and "status" in arguments and following.startswith("-"):
            told.append(str(USUAL_DAYS))
    return told


def _show_calendar(settings: "Settings", days: int, as_json: bool) -> None:
    from datetime import UTC, datetime, timedelta

    from cli.output import out, show_json, show_table
    from warehouse.backfill import feeds_of, read_calendar
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated

    ensure_migrated(settings.warehouse)
    last = datetime.now(UTC).date()
    with connect(settings.warehouse, autocommit=True) as connection:
        partitions = read_calendar(connection, feeds_of(settings), last - timedelta(days=days - 1), last)
    if as_json:
        show_json({"partitions": partitions})
        return
    rows: dict[str, dict[str, Any]] = {}
    columns = {"day": "day"}
    for one in partitions:
        row = rows.setdefault(str(one.day), {"day": f"{one.day:%Y-%m-%d %a}"})
        row[one.feed] = one.status
        columns[one.feed] = one.feed
        if one.rows is not None:
            row[f"{one.feed} rows"] = one.rows
            columns[f"{one.feed} rows"] = "rows"
    show_table("Days (UTC)", list(rows.values()), columns)
    for one in partitions:
        if one.message:
            out.print(f"{one.feed} {one.day}: {one.message}", markup=False, soft_wrap=True)


def _show(told: dict[str, Any]) -> None:
    from cli.output import out, show_table

    show_table("Local stack", told["stack"])
    if "runs" not in told:
        out.print("No warehouse is up. Start the embedded one with `dwh up`, or set DWH_WAREHOUSE_URL.")
        return
    show_table(
        "Last runs (UTC)",
        told["runs"],
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
    for run in told["runs"]:
        if run["message"]:
            out.print(f"Run {run['run_id']}: {run['message']} {run['hint'] or ''}".rstrip(), markup=False)
    verdicts = {f"raw.{p['source']}_{p['table_name']}": p["verdict"] for p in told["proofs"]}
    for table in told["tables"]:
        table["proof"] = verdicts.get(table["table_name"])
    show_table(
        "Tables (UTC)",
        told["tables"],
        {
            "table_name": "table",
            "source": "source",
            "complete_at": "complete as of",
            "changed_at": "last changed",
            "row_count_estimate": "rows, about",
            "proof": "source = mirror",
        },
    )
    _show_reconciled(told["reconciled"])
    show_table("In quarantine", told["quarantine"], empty="nothing")


def _show_reconciled(reconciled: list[dict[str, Any]]) -> None:
    """The last verdicts on star, web logs and marts: in one line, but for tables that differ."""
    from cli.output import out, show_table

    above = [row for row in reconciled if row["layer"] != "mirror"]
    if not above:
        out.print("[bold]Reconciled[/]: star and marts never were (`dwh reconcile`)\n")
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


def _up(sign: object) -> str:
    return "up" if sign else "down"


def _where(postgres: Any) -> str | None:
    return f"127.0.0.1:{postgres.port}" if postgres.passfile.exists() else None
