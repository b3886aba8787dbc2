"""`dwh undo`: what a run published is taken back."""

from typing import Annotated

import typer


def undo(
    run_id: Annotated[
        int, typer.Argument(metavar="RUN", min=1, max=2**63 - 1, help="Run to take back: see `dwh status`.")
    ],
    cascade: Annotated[
        bool,
        typer.Option("--cascade", help="Take back later runs that were built on it as well, newest first."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Take back what a run published: star, mirrors, quarantine, watermarks and files are as before it.

    The next run loads it again. Refused where something later was built on it, unless with --cascade.

    Examples: `dwh undo 17`, `dwh undo 17 --cascade`
    """
    from cli.output import narrated, out
    from cli.run import show
    from flows.engine import run_without_prefect

    # An undo is an act of a person, not work that Prefect schedules and tries again.
    run_without_prefect()
    from flows.undo import undo_run

    with narrated(f"undo of run {run_id}"):
        outcome = undo_run(run_id, cascade=cascade)
    show(outcome, as_json)
    if not as_json:
        out.print(
            f"Undone: {', '.join(f'run {one}' for one in outcome.undone)}. Stored marts: `dwh run marts`."
        )
