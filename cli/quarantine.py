"""`dwh quarantine`: rows of sources and lines of files that broke a rule."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Commands, Json

if TYPE_CHECKING:
    import psycopg

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", min=1, max=2**63 - 1, help="See `dwh quarantine list`."),
]
Source = Annotated[str | None, typer.Option(help="Only of this source, or weblogs.")]
Entity = Annotated[str | None, typer.Option(help="Only of this entity, as order_item.")]
Rule = Annotated[str | None, typer.Option(help="Only what broke this rule.")]
RunId = Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="Only what this run has put there.")]
# Characters of an example in the list.
_SHOWN = 160
quarantine = Commands(
    help="Rows of sources and lines of files that broke a rule, with their reasons.", no_args_is_help=True
)


@quarantine.command("list")
def show_list(
    source: Source = None,
    entity: Entity = None,
    rule: Rule = None,
    run: RunId = None,
    limit: Annotated[int, typer.Option(min=1, max=10**6, help="How many to show, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what waits in quarantine: by rule with the beginning of an example, then its place, rules and reason.

    Rows of a source leave it when they are corrected there and loaded again; records and lines of files when they are
    replayed or discarded.

    Examples: `dwh quarantine list`, `dwh quarantine list --entity order_item --limit 10`
    """
    from cli.output import out, show_json, show_table
    from warehouse.errors import visible
    from warehouse.runs.quarantine import Selection, read_groups, read_waiting

    with _warehouse() as connection:
        groups = read_groups(connection, Selection((), source, entity, rule, run))
        count, rows = read_waiting(
            connection, source=source, entity=entity, rule=rule, run_id=run, limit=limit
        )
    if as_json:
        show_json(rows)
        return
    show_table(
        "In quarantine, by rule and run",
        groups,
        {
            "source": "source",
            "entity": "entity",
            "rule": "rule",
            "run_id": "run",
            "entries": "entries",
            "example": "example (id)",
            "since": "since (UTC)",
        },
        "nothing",
    )
    if not rows:
        return
    # One entry may be the example of several rules. A table of its own: those above fit on a terminal without it.
    records = {group["example"]: visible(group["record"] or "") for group in groups}
    show_table(
        "Examples",
        [
            {"id": number, "record": record if len(record) <= _SHOWN else f"{record[:_SHOWN]}…"}
            for number, record in records.items()
        ],
    )
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
    )
    out.print(f"One with its row: `dwh quarantine show {rows[0]['quarantine_id']}`.", markup=False)


@quarantine.command("replay")
def replay_entries(
    ids: Ids = None,
    source: Source = None,
    entity: Entity = None,
    rule: Rule = None,
    run: RunId = None,
    edited: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            allow_dash=True,
            help="File with the record of this entry as you have corrected it; - is the standard input.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many would pass now, and roll it back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check quarantined entries again, and load those that pass now, in a run of its own.

    Use it after a fix of a rule or a mapping, or once a late row has come. Records of files may be corrected by hand;
    rows of databases are corrected there. A file of web logs in which a line passes is read again from its beginning.

    Examples: `dwh quarantine replay --dry-run`, `dwh quarantine replay --rule "product id is missing"`,
    `dwh quarantine replay 7 --edited order.json`
    """
    import sys

    from cli.output import show_json, show_log, show_table
    from flows.engine import run_without_prefect
    from warehouse.runs.quarantine import Selection

    run_without_prefect()
    from flows.replay_quarantine import replay

    content = None
    if edited is not None:
        content = sys.stdin.buffer.read() if str(edited) == "-" else edited.read_bytes()
    selection = Selection(tuple(ids or ()), source, entity, rule, run)
    with show_log("replay of the quarantine"):
        replayed = replay(selection, edited=content, dry_run=dry_run)
    if as_json:
        show_json(replayed)
        return
    show_table(
        "Would be replayed" if dry_run else "Replayed",
        [vars(one) for one in replayed],
        {"source": "source", "run_id": "run", "judged": "judged again", "passed": "passed"},
        "nothing",
    )


@quarantine.command("discard")
def discard(
    reason: Annotated[str, typer.Option(help="Why it is not wanted: kept with each entry.")],
    ids: Ids = None,
    source: Source = None,
    entity: Entity = None,
    rule: Rule = None,
    run: RunId = None,
    as_json: Json = False,
) -> None:
    """Discard records and lines of files that wait: they are counted as discarded, and never loaded.

    Example: `dwh quarantine discard 7 8 --reason "test orders of the partner"`
    """
    from cli.output import out, show_json, show_log
    from flows.engine import run_without_prefect
    from warehouse.errors import WrongParameters
    from warehouse.runs.quarantine import Selection

    if not reason.strip():
        raise WrongParameters("The reason is empty.", hint="Say why the entries are not wanted: --reason …")
    selection = Selection(tuple(ids or ()), source, entity, rule, run)
    if selection == Selection():
        raise WrongParameters(
            "Nothing says what to discard.", hint="Give ids, or --source, --entity, --rule or --run."
        )
    run_without_prefect()
    from flows.replay_quarantine import discard_entries

    with show_log("discard"):
        count = discard_entries(selection, reason)
    if as_json:
        show_json({"discarded": count})
        return
    out.print(f"Discarded: {count:,}.")


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
