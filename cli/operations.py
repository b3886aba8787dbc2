"""`dwh deploy` and `dwh watchdog`: what runs by schedule, and what looks after it."""

import os
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def deploy(
    pool: Annotated[str | None, typer.Option(help="Work pool, if not the one of resources.yaml.")] = None,
    as_json: Json = False,
) -> None:
    """Register every deployment with its schedule, work pool, automations and variables; again and again, if you like.

    On the server or Cloud workspace that PREFECT_API_URL points at, else on the local stack's.
    """
    from cli.output import narrated, out, show_json
    from cli.tracking import track_flows
    from warehouse.errors import WarehouseError
    from warehouse.settings import Settings

    api_url = track_flows(Settings.load().home)
    if api_url is None:
        place = os.environ.get("PREFECT_API_URL")
        what = f"Prefect does not answer at {place}." if place else "No Prefect server is known."
        raise WarehouseError(
            what, hint="Run `dwh up`, or set PREFECT_API_URL (and PREFECT_API_KEY for Cloud)."
        )
    from flows.deploy import deploy as register
    from flows.deployments import read_declarations

    with narrated(f"deploying onto {api_url}"):
        ids = register(read_declarations(), pool)
    if as_json:
        show_json({"api_url": api_url, "deployments": ids})
        return
    for name in ids:
        out.print(f"deployed {name}")
    out.print(f"{len(ids)} deployments on {api_url}. A worker runs them: `dwh up --worker`.", soft_wrap=True)


def watchdog(as_json: Json = False) -> None:
    """Mail what is late or dead, mark dead runs, and send the mail that waits. For cron: needs no Prefect server.

    Example: `*/10 * * * * cd /srv/dwh && .venv/bin/dwh watchdog`
    """
    from dataclasses import asdict

    from cli.output import narrated, out, show_json, show_table
    from flows.engine import run_without_prefect
    from stack.local import state
    from warehouse.settings import Settings

    # Were it a run of Prefect's, it would fail with Prefect.
    run_without_prefect()
    if api_url := os.environ.get("PREFECT_API_URL") or state(Settings.load().home).api_url:
        os.environ["PREFECT_API_URL"] = api_url
    from flows.watchdog import watchdog as look

    with narrated("watchdog"):
        watched = look()
    if as_json:
        show_json(watched)
        return
    show_table("Late", [asdict(late) for late in watched.found.late], empty="nothing is late")
    out.print(f"{len(watched.found.crashed)} dead runs marked as crashed.")
