"""`dwh quarantine`: rows of sources and lines of files that broke a rule."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.log_options import Commands

if TYPE_CHECKING:
    import psycopg

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
quarantine = Commands(
    help="Rows of sources and lines of files that broke a rule, with their reasons.", no_args_is_help=True
)


@quarantine.command("list")
def show_list(
    source: Annotated[str | None, typer.Option(help="Only of this source, or weblogs.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only of this entity, as order_item.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only what broke this rule.")] = None,
    run: Annotated[int | None, typer.Option(min=1, help="Only what this run has put there.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10**6, help="How many to show, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what waits in quarantine: its place, the rules that it broke, and why.

    Rows of a source leave it when they are corrected there and loaded again; lines of files stay as a record.

    Examples: `dwh quarantine list`, `dwh quarantine list --entity order_item --limit 10`
    """
    from cli.output import out, show_json, show_table
    from warehouse.runs.quarantine import read_waiting

    with _warehouse() as connection:
        count, rows = read_waiting(
            connection, source=source, entity=entity, rule=rule, run_id=run, limit=limit
        )
    if as_json:
        show_json(rows)
        return
    show_table(
        f"In quarantine: {count:,}" + (f", the newest {len(rows):,}" if len(rows) < count else ""),
        rows,
        {
            "quarantine_id": "id",
            "source": "source",
            "entity": "entity",
            "place": "key or line",
            "rules": "rules",
            "reason": "reason",
            "quarantined_at": "since (UTC)",
            "run_id": "run",
        },
        "nothing",
    )
    if rows:
        out.print(f"One with its row: `dwh quarantine show {rows[0]['quarantine_id']}`.", markup=False)


@quarantine.command("show")
def show_one(
    quarantine_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="Id: see `dwh quarantine list`.")
    ],
    as_json: Json = False,
) -> None:
    """Show an entry with its whole row or line, and what became of it.

    Example: `dwh quarantine show 7`
    """
    from cli.output import format_value, show_json, show_line
    from warehouse.runs.quarantine import read_entry

    with _warehouse() as connection:
        entry = read_entry(connection, quarantine_id)
    if as_json:
        show_json(entry)
        return
    row = entry.pop("row_data") or {}
    for name, value in [*entry.items(), *((f"row: {name}", value) for name, value in row.items())]:
        if value is not None:
            show_line(f"{name.replace('_', ' '):24} {format_value(value)}")


def _warehouse() -> "psycopg.Connection":
    from flows.databases import with_urls
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.settings import Settings

    url = with_urls(Settings.load(), start=False).warehouse
    ensure_migrated(url)
    return connect(url, autocommit=True)
