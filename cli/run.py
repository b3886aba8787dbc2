"""`dwh run`: flows in this process, seen in Prefect where a server is up."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.outcome import Outcome
    from warehouse.history.dry_run import Example

run = typer.Typer(help="Run a flow here and now: `dwh run daily`.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]
Whole = Annotated[bool, typer.Option("--whole", help="Read every row again, as after a restore or failover.")]
ConfirmDeletes = Annotated[
    bool, typer.Option("--confirm-deletes", help="Publish deletes even where they are suspiciously many.")
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Do it, show what would have changed, and roll it back.")
]


@run.command()
def daily(
    whole: Whole = False,
    confirm_deletes: ConfirmDeletes = False,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Begin with this step, as ingest-weblogs.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Everything that a day brings: shop, web logs, marts.

    A step that fails does not keep the others from running; the command fails then, and says which. Run again within
    twelve hours, it goes on from there. `--from STEP` does that step and those after it, whatever had succeeded.
    """
    outcome = perform(
        "daily-warehouse", dry_run, whole=whole, confirm_deletes=confirm_deletes, from_step=from_step
    )
    show(outcome, as_json)


@run.command()
def shop(
    whole: Whole = False,
    confirm_deletes: ConfirmDeletes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """What changed in the source since the last run (DWH_SOURCE says which; by default the shop).

    Examples: `dwh run shop`, `dwh run shop --whole`, `dwh run shop --dry-run`, `DWH_SOURCE=northwind dwh run shop`
    """
    show(perform("ingest-shop", dry_run, whole=whole, confirm_deletes=confirm_deletes), as_json)


@run.command()
def weblogs(dry_run: DryRun = False, as_json: Json = False) -> None:
    """What is new in the access logs of the lake (DWH_LAKE/landing/weblogs, plain or .gz).

    Started several times at once, on one machine or many, each run takes files that no other has, an eighth of what
    is left at a time; when nothing is left, it waits a minute for the others, and takes over from those that die.
    """
    show(perform("ingest-weblogs", dry_run), as_json)


@run.command()
def reclassify(as_json: Json = False) -> None:
    """Tell the countries of all web log requests again by the GeoIP database in use, month by month.

    Killed and run again, it goes on with the month that it was at.
    """
    show(perform("reclassify-weblogs"), as_json)


@run.command()
def retention(confirm_deletes: ConfirmDeletes = False, as_json: Json = False) -> None:
    """Remove web log requests that are older than DWH_WEBLOG_RETENTION_DAYS; where that is not set, nothing."""
    show(perform("remove-old-weblogs", confirm_deletes=confirm_deletes), as_json)


@run.command()
def marts(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Materialized views of schema mart."""
    show(perform("refresh-marts", dry_run), as_json)


def perform(name: str, dry_run: bool = False, **parameters: object) -> Any:
    """Run the flow `name`, telling on stderr what it does; Prefect never sees a dry run."""
    from cli.output import narrated
    from cli.tracking import track_flows
    from warehouse.errors import WarehouseError, WrongParameters
    from warehouse.settings import Settings

    if dry_run:
        from flows.engine import run_without_prefect

        run_without_prefect()
        parameters["dry_run"] = True
    api_url = None if dry_run else track_flows(Settings.load().home)
    with narrated(name):
        try:
            return flow_of(name)(**parameters)
        except Exception as error:
            if wrong := _wrong_parameters(error, name):
                raise WrongParameters(
                    f"{name} cannot be run so: {wrong}.", hint="See `dwh run --help`."
                ) from None
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
                raise
            raise WarehouseError(
                f"Prefect at {api_url} has stopped answering while {name} ran.",
                hint="How the run ended is in the warehouse: `dwh status`. Running it again does no harm.",
            ) from error


def show(outcome: "Outcome", as_json: bool) -> None:
    """Print what a flow did: one row per table that it loaded."""
    from dataclasses import asdict

    from cli.output import out, show_json, show_table

    if as_json:
        show_json(outcome)
        return
    rows = [asdict(load) for load in outcome.every_load]
    counts = (
        [name for name in rows[0] if name.startswith("rows_") and any(row[name] for row in rows)]
        if rows
        else []
    )
    columns = {
        "source": "source",
        "table_name": "table",
        **{name: name.removeprefix("rows_") for name in counts},
    }
    for name in counts:
        columns[name] = name.removeprefix("rows_").replace("_", " ")
    title = f"{outcome.flow}, {'dry run' if outcome.dry_run else 'run'} {outcome.run_id}"
    show_table(title, rows, columns | {"seconds": "seconds"}, "nothing to load")
    if outcome.dry_run:
        show_table("Examples", [_shown(one) for one in outcome.every_example], empty="nothing would change")
        out.print("A dry run: all of it was rolled back, nothing has changed.")
    for line in _verdicts(outcome):
        out.print(line)


def _shown(example: "Example") -> dict[str, str | None]:
    """An example as a row of a table: an update by what changes, all others by the row."""
    row = example.after or example.before or {}
    return {
        "table": example.table_name,
        "would": example.operation,
        "key": ", ".join(example.row_key),
        "what": example.changes or ", ".join(f"{name} {value}" for name, value in row.items()),
    }


def flow_of(name: str) -> "Callable[..., Outcome]":
    """The flow of a name; importing it imports Prefect, unless it was told to do without."""
    from importlib import import_module

    module = name.replace("-", "_")
    flow: Callable[..., Any] = getattr(import_module(f"flows.{module}"), module)
    return flow


def _wrong_parameters(error: Exception, flow: str) -> str | None:
    """What is wrong with the parameters of a flow, if that is what `error` says; Prefect says it in its own words."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError) and error.title == flow.replace("-", "_"):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    if type(error).__name__ == "ParameterTypeError":
        return " ".join(str(error).split()).partition(": ")[2]
    return None


def _verdicts(outcome: "Outcome") -> list[str]:
    checks = [check for step in (outcome, *outcome.steps) for check in step.checks]
    proofs = [proof for step in (outcome, *outcome.steps) for proof in step.proofs]
    lines = []
    if checks:
        found = sum(check.outcome in ("failed", "warned") for check in checks)
        lines.append(f"{len(checks)} checks, {found} found something (`dwh status` shows the quarantine).")
    if proofs:
        rows = sum(proof.rows_source for proof in proofs)
        lines.append(f"Proved: {len(proofs)} tables with {rows:,} rows are equal in source and mirror.")
    return lines
