"""`dwh live`: publish changes of the sources to the star schema within a second."""

from typing import Annotated

import typer


def live(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Sources to follow; all databases that have a URL."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume live loading that an undo has paused, whichever machine runs `dwh live`, and exit.",
        ),
    ] = False,
) -> None:
    """Publish what changes in the sources within a second, in one process that stays.

    It reads changed rows by the index on each cursor, and verifies nothing. Scheduled runs continue: they find deletes
    and changes without a new timestamp, and verify. SIGTERM and Ctrl-C end it between two batches.

    Examples: `dwh live`, `dwh live shop`, `dwh live --resume`
    """
    from cli.output import out, show_log
    from flows.engine import run_without_prefect

    # This process runs until it is stopped: Prefect must not record it as a flow run.
    run_without_prefect()
    from flows.live import go_live, resume_live

    if resume:
        held = resume_live(sources or [])
        out.print(
            f"Live goes on with: {', '.join(held)}." if held else "Live loading is not paused by an undo."
        )
        return
    with show_log("live"):
        go_live(sources or [])
