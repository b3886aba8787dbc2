"""`dwh undo`: undo what a run published."""

from typing import Annotated

import typer

from cli.options import Json


def undo(
    run_id: Annotated[
        int, typer.Argument(metavar="RUN", min=1, max=2**63 - 1, help="Run to undo: see `dwh status`.")
    ],
    cascade: Annotated[
        bool,
        typer.Option("--cascade", help="Undo later runs that were built on it as well, newest first."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Undo what a run published: star, mirrors, quarantine, watermarks and files are as before that run.

    The next run loads it again. Refused if later runs were built on it, except with --cascade.

    Examples: `dwh undo 17`, `dwh undo 17 --cascade`
    """
    from cli.output import out, show_log
    from cli.run import show
    from flows.engine import run_without_prefect

    # A person asks for an undo: Prefect must not schedule or retry it.
    run_without_prefect()
    from flows.undo import undo_run

    with show_log(f"undo of run {run_id}"):
        result = undo_run(run_id, cascade=cascade)
    show(result, as_json)
    if not as_json:
        out.print(
            f"Undone: {', '.join(f'run {one}' for one in result.undone)}. Stored marts: `dwh run marts`."
        )
