"""`dwh rebuild`: rebuild tables from archive and landing files."""

from typing import Annotated

import typer

from cli.options import Json
from cli.reconcile import show_verdicts
from cli.run import perform, show


def rebuild(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE…", help="As customer, raw.shop_customer, dwh.dim_customer, weblog."),
    ] = None,
    every_table: Annotated[
        bool, typer.Option("--all", help="Every mirror, dimension and fact, and web logs.")
    ] = False,
    as_of: Annotated[
        int | None,
        typer.Option(
            metavar="RUN",
            help="Build mirrors, dimensions and daily snapshots as this run left them into schema rebuild_RUN; live "
            "tables stay.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild tables from archive and landing files: compared with the live ones, put in place in one transaction.

    Tables that were dropped come back with views, comments, triggers and privileges. An empty warehouse takes over the
    archive's runs first. Facts are computed again. Web-log files with missing requests are loaded again; all of them if
    a web-log table is named.

    Examples: `dwh rebuild customer`, `dwh rebuild --all`, `dwh rebuild --all --as-of 120`
    """
    from warehouse.errors import WrongParameters

    if bool(tables) == every_table:
        raise WrongParameters(
            "Which tables?", hint="Name them, as `dwh rebuild customer`, or: dwh rebuild --all."
        )
    result = perform("rebuild", tables=tables or None, as_of=as_of)
    if as_of is not None:
        show(result, as_json)
    else:
        show_verdicts("Rebuilt", result.verdicts, as_json)
