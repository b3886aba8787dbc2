"""`dwh archive`: archive published batches that wait for it, and compact and clean its Delta tables."""

from typing import Annotated

import typer

from cli.options import Json
from cli.run import perform


def archive(
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Start a new archive: the next runs archive everything that the warehouse has.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Archive published batches that wait for it, merge small files of the Delta tables, and remove files that neither
    a table version of the last week nor a batch uses.

    Examples: `dwh archive`, `dwh archive --restart`
    """
    from dataclasses import asdict

    from cli.output import out, show_json

    if restart:
        from flows.engine import run_without_prefect

        run_without_prefect()
        from flows.maintain_archive import restart_archive

        restart_archive()
        out.print("The next run of each source starts a new archive.")
        return
    done = perform("maintain-archive")
    if as_json:
        show_json(asdict(done))
        return
    out.print(f"{done}.")
