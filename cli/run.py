"""`dwh run`: run flows in this process; Prefect shows the runs if its server is up."""

from collections.abc import Callable
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from cli.options import Commands, Json
from warehouse.errors import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flows.result import FlowResult
    from warehouse.history.dry_run import Example


class _RunTargets(TyperGroup):
    """The subcommands of `dwh run`: `daily`, every declared source, and the other flows."""

    FIRST: ClassVar = ["daily"]

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return [*self.FIRST, *_declared(), *(name for name in names if name not in self.FIRST)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or (
            _source_command(cmd_name) if cmd_name in _declared() else None
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Typer's own suggestions do not include the sources.
        name = args[0] if args else "-"
        if not (name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name)):
            known = self.list_commands(ctx)
            close = get_close_matches(name, known)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}."
            ctx.fail(f"{name!r} cannot be run. {hint}")
        return super().resolve_command(ctx, args)


run = Commands(
    cls=_RunTargets,
    help="Load sources and web logs, or refresh marts, now: `dwh run daily`, `dwh run shop`.",
    no_args_is_help=True,
)

UNREAD_FILES = 3

FullRefresh = Annotated[
    bool,
    typer.Option("--full-refresh", help="Read every row again."),
]
ConfirmDeletes = Annotated[
    bool, typer.Option("--confirm-deletes", help="Publish deletes even if they exceed DWH_MAX_DELETE_SHARE.")
]
Reconform = Annotated[
    bool,
    typer.Option(
        "--reconform",
        help="Conform again what was made by another definition, even if it is more than DWH_RECONFORM_ROWS.",
    ),
]
AcceptSource = Annotated[
    bool,
    typer.Option(
        "--accept-source",
        help="Read everything again from another database than before, as after a deliberate move or restore.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Run everything, show what would change, and roll it back.")
]


@run.command()
def daily(
    full_refresh: FullRefresh = False,
    confirm_deletes: ConfirmDeletes = False,
    from_step: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Start with this step: ingest-shop, ingest-weblogs, refresh-marts …",
        ),
    ] = None,
    reconform: Reconform = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Load every source that has a URL, every feed that has a landing folder, and the web logs; then refresh the marts.

    A step that fails does not stop the others; the command names it and ends with the worst exit code. Run again within
    twelve hours, it repeats only what failed. `--from STEP` starts with that step, whatever succeeded before.
    """
    result = perform(
        "daily-warehouse",
        dry_run,
        full_refresh=full_refresh,
        confirm_deletes=confirm_deletes,
        from_step=from_step,
        reconform=reconform,
    )
    show(result, as_json)
    end_with_3_if_unread(result)


@run.command()
def weblogs(reconform: Reconform = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Load new lines of the access logs in the lake (DWH_LAKE/landing/weblogs): plain, compressed, or in archives.

    A file that cannot be read, or is of another format, is named; all others are loaded, and the command ends with 3.

    Several runs at once, on one machine or many, share the files: each takes an eighth of what is left at a time. When
    nothing is left, a run waits a minute for the others, and takes over the files of those that die.
    """
    result = perform("ingest-weblogs", dry_run, reconform=reconform)
    show(result, as_json)
    end_with_3_if_unread(result)


@run.command()
def marts(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Bring the stored marts up to date with what has changed."""
    show(perform("refresh-marts", dry_run), as_json)


@run.command()
def features(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Day up to whose end events count; default: the day of each source's newest sale.",
        ),
    ] = None,
    known_at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
            help="Take the tables as they stood at this time (UTC), as far as the change log reaches.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Build the features of customers (mart.customer_feature) as of a day; rows of other days stay.

    Examples: `dwh run features`, `dwh run features --as-of 2026-10-31 --known-at 2026-11-02`
    """
    result = perform(
        "build-features",
        dry_run,
        as_of=as_of and as_of.date(),
        known_at=known_at and known_at.replace(tzinfo=UTC),
    )
    show(result, as_json)


@run.command()
def reclassify(as_json: Json = False) -> None:
    """Look up the countries of all web-log requests again in the GeoIP database in use, month by month.

    An interrupted run continues with the month where it stopped.
    """
    show(perform("reclassify-weblogs"), as_json)


@run.command()
def retention(confirm_deletes: ConfirmDeletes = False, as_json: Json = False) -> None:
    """Remove web-log requests older than DWH_WEBLOG_RETENTION_DAYS; nothing if that is not set."""
    show(perform("remove-old-weblogs", confirm_deletes=confirm_deletes), as_json)


def perform(name: str, dry_run: bool = False, **parameters: object) -> Any:
    """Run the flow `name` and show its log on stderr; Prefect never sees a dry run."""
    from cli.output import show_log
    from cli.tracking import track_flows
    from warehouse.errors import WarehouseError, WrongParameters
    from warehouse.settings import Settings

    if dry_run:
        from flows.engine import run_without_prefect

        run_without_prefect()
        parameters["dry_run"] = True
    api_url = None if dry_run else track_flows(Settings.load().home)
    with show_log(name):
        try:
            return flow_named(name)(**parameters)
        except Exception as error:
            if wrong := _wrong_parameters(error, name):
                raise WrongParameters(
                    f"{name} does not accept this: {wrong}.", hint="See `dwh run --help`."
                ) from None
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
                raise
            raise WarehouseError(
                f"Prefect at {api_url} stopped answering while {name} ran.",
                hint="How the run ended is in the warehouse: `dwh status`. Running it again is safe.",
            ) from error


def show(result: "FlowResult", as_json: bool) -> None:
    """Print what a flow did: one row for each table that it loaded."""
    from dataclasses import asdict

    from cli.output import heading, out, show_json, show_table, show_unread_files

    if as_json:
        show_json(result)
        return
    rows = [asdict(load) for load in result.every_load]
    counts = (
        [name for name in rows[0] if name.startswith("rows_") and any(row[name] for row in rows)]
        if rows
        else []
    )
    columns = {
        "source": "source",
        "table_name": "table",
        **{name: heading(name) for name in counts},
        "seconds": "seconds",
    }
    title = f"{result.flow}, {'dry run' if result.dry_run else 'run'} {result.run_id}"
    show_table(title, rows, columns, "nothing to load")
    if result.dry_run:
        examples = [_example_row(example) for example in result.every_example]
        show_table("Examples", examples, empty="nothing would change")
        out.print("Dry run: everything was rolled back, nothing has changed.")
    for line in _summary(result):
        out.print(line)
    show_unread_files([asdict(file) for file in result.every_unread_file])


def end_with_3_if_unread(result: "FlowResult") -> None:
    """Exit with 3 if somebody has to decide about an unread file; files ignored by their names do not count."""
    if any(file.status != "ignored" for file in result.every_unread_file):
        raise typer.Exit(UNREAD_FILES)


def flow_named(name: str) -> "Callable[..., FlowResult]":
    """Import the flow of that name; this imports Prefect, unless that was turned off."""
    from importlib import import_module
    from importlib.util import find_spec

    module = name.replace("-", "_")
    if find_spec(f"flows.{module}") is None:
        from flows.ingest_source import flow_of

        return flow_of(name.removeprefix("ingest-"))
    flow: Callable[..., Any] = getattr(import_module(f"flows.{module}"), module)
    return flow


def _declared() -> "Mapping[str, Path]":
    from warehouse.settings import Settings
    from warehouse.sources.registry import declared_sources

    return declared_sources(Settings.load().sources)


def _source_command(name: str) -> Any:
    """Make the command that loads source `name`."""
    commands = Commands(add_completion=False, rich_markup_mode="markdown")

    @commands.command(name, help=_source_help(name))
    def load(
        full_refresh: FullRefresh = False,
        confirm_deletes: ConfirmDeletes = False,
        reconform: Reconform = False,
        accept_source: AcceptSource = False,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        result = perform(
            f"ingest-{name}",
            dry_run,
            full_refresh=full_refresh,
            confirm_deletes=confirm_deletes,
            reconform=reconform,
            accept_source=accept_source,
        )
        show(result, as_json)
        end_with_3_if_unread(result)

    return typer.main.get_command(commands)


def _source_help(name: str) -> str:
    from warehouse.errors import DeclarationError
    from warehouse.sources.declaration import read_declaration

    is_feed = False
    try:
        source = read_declaration(_declared()[name])
        about, is_feed = source.description, source.feed is not None
    except DeclarationError as error:
        about = error.what
    if is_feed:
        return (
            f"Load new files of feed {name} from the lake (DWH_LAKE). {about}\n\n"
            "A file that cannot be read is named; all others are loaded, and the command ends with 3.\n\n"
            f"Examples: `dwh run {name}`, `dwh run {name} --dry-run`"
        )
    return (
        f"Load what changed in source {name} since the last run. {about}\n\n"
        f"Its database is DWH_{name.upper()}_URL.\n\n"
        f"Examples: `dwh run {name}`, `dwh run {name} --full-refresh`, `dwh run {name} --dry-run`"
    )


def _example_row(example: "Example") -> dict[str, str | None]:
    """Convert an example to a table row: an update shows its changes, others the row."""
    row = example.after or example.before or {}
    return {
        "table": example.table_name,
        "would": example.operation,
        "key": ", ".join(example.row_key),
        "what": example.changes
        or ", ".join(
            # As SQL and `dwh explain` write it.
            f"{name} {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in row.items()
        ),
    }


def _wrong_parameters(error: Exception, flow: str) -> str | None:
    """Return what is wrong with a flow's parameters, if `error` is about them: one of pydantic or of Prefect."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError) and error.title in (flow.replace("-", "_"), "ingest_source"):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    if type(error).__name__ == "ParameterTypeError":
        return " ".join(str(error).split()).partition(": ")[2]
    return None


def _summary(result: "FlowResult") -> list[str]:
    checks = [check for step in (result, *result.steps) for check in step.checks]
    verifications = [verification for step in (result, *result.steps) for verification in step.verifications]
    lines = []
    if checks:
        failed = sum(check.outcome in ("failed", "warned") for check in checks)
        # Rows that a dry run would quarantine are only in its examples.
        where = " (`dwh quarantine list` lists the rows)" if failed and not result.dry_run else ""
        lines.append(f"{counted(len(checks), 'check')}, {failed} failed or warned{where}.")
    verifications = [one for one in verifications if one.is_compared]
    if verifications:
        rows = sum(verification.rows_source for verification in verifications)
        lines.append(
            f"Verified: {counted(len(verifications), 'table')} with {counted(rows, 'row')}, equal in source and mirror."
        )
    return lines
