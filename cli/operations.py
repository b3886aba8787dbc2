"""`dwh deploy`, `dwh worker`, `dwh watchdog` and `dwh metrics`: run flows on a schedule, and monitor them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from flows.deploy import Deployed


def deploy(
    pool: Annotated[str | None, typer.Option(help="Work pool, if not that of resources.yaml.")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Set everything as declared, whatever was changed on the server.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register all deployments with schedules, work pool and automations; repeatable.

    What was changed on the server (a schedule that is paused or has another time, parameters, limits) stays, and is
    named; with --reset it is set as declared. Every declared source that has a URL (DWH_NAME_URL) gets a deployment;
    those of sources that no longer are declared or have a URL are paused. The server is that of PREFECT_API_URL, else
    that of the local stack.
    """
    from cli.output import out, show_json, show_log
    from warehouse.settings import Settings

    settings, api_url = Settings.load(), _server()
    from flows.databases import loaded_sources
    from flows.deploy import deploy as register
    from flows.deployments import read_declarations

    declared = read_declarations(loaded_sources(settings), time_zone=settings.time_zone)

    with show_log(f"deploying to {api_url}"):
        done = register(declared, pool, reset=reset)
    if as_json:
        show_json({"api_url": api_url, "deployments": done.ids, "kept": done.kept, "paused": done.paused})
        return
    for name in done.ids:
        out.print(f"deployed {name}")
    for line in describe(done):
        out.print(line, markup=False, soft_wrap=True)
    out.print(f"{len(done.ids)} deployments on {api_url}. A worker runs them: `dwh worker`.", soft_wrap=True)


def describe(done: "Deployed") -> list[str]:
    """List, a line each, the properties that a deployment kept as an operator had set them, and what it paused."""
    return [
        *(
            f"kept {', '.join(keys)} of {name}, changed on the server since; `dwh deploy --reset` sets them as declared"
            for name, keys in done.kept.items()
        ),
        *(f"paused {name}: its source is not declared or has no URL" for name in done.paused),
    ]


def worker(
    pool: Annotated[str, typer.Option(help="Work pool whose runs it takes.")] = "dwh",
    name: Annotated[str | None, typer.Option(help="Name under which the pool lists it.")] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that runs at work may go on after SIGTERM or Ctrl-C.")
    ] = 60.0,
    healthcheck: Annotated[
        bool,
        typer.Option("--with-healthcheck", help="Answer at /health of PREFECT_WORKER_WEBSERVER_PORT (8080)."),
    ] = False,
) -> None:
    """Run the deployed flows in processes of this machine; drain when stopped.

    At SIGTERM or Ctrl-C it takes no new runs. Those at work finish within --grace seconds; what is left then, or at a
    second signal, is cancelled: rolled back, with status `cancelled` in audit.run and in Prefect, and no mail. A worker
    that is started with the --name of a killed one frees the concurrency slots of the killed runs at once.
    """
    import asyncio

    # The worker itself waits for a server of PREFECT_API_URL that does not answer yet.
    api_url = os.environ.get("PREFECT_API_URL") or _server()
    from cli.output import err
    from flows.worker import work

    err.print(f"Worker of pool {pool} at {api_url}", markup=False, soft_wrap=True)
    asyncio.run(work(pool, name, grace, healthcheck=healthcheck))


def _server() -> str:
    """Connect this process to Prefect's API, that of PREFECT_API_URL or else of the local stack; returns its URL.

    Raises:
        WarehouseError: no server is known, or it does not answer.
    """
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
    return api_url


def watchdog(as_json: Json = False) -> None:
    """Mark dead runs, mail about dead runs and late flows, and send queued mail. For cron: needs no Prefect server.

    Example: `*/10 * * * * cd /srv/dwh && .venv/bin/dwh watchdog`
    """
    from dataclasses import asdict

    from cli.output import out, show_json, show_log, show_table
    from flows.watch_round import watch_round
    from stack.local import state
    from warehouse.settings import Settings

    # Runs as a plain function: as a flow run it would fail whenever Prefect is down.
    if api_url := os.environ.get("PREFECT_API_URL") or state(Settings.load().home).api_url:
        os.environ["PREFECT_API_URL"] = api_url
    with show_log("watchdog"):
        watched = watch_round()
    if as_json:
        show_json(watched)
        return
    show_table(
        "Late",
        [asdict(late) for late in watched.found.late],
        {
            "flow": "flow",
            "due_at": "due (UTC)",
            "succeeded_at": "last success (UTC)",
            "is_new": "mailed now",
        },
        "nothing is late",
    )
    out.print(f"{len(watched.found.crashed)} dead runs marked as crashed.")


def metrics(
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Write this file, for node_exporter's textfile collector."),
    ] = None,
) -> None:
    """Print metrics for Prometheus: freshness, rows, seconds, quarantine, open problems.

    Example: `* * * * * cd /srv/dwh && .venv/bin/dwh metrics --to /var/lib/node_exporter/dwh.prom`
    """
    from flows.databases import with_urls
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.runs.metrics import render
    from warehouse.settings import Settings

    url = with_urls(Settings.load(), start=False).warehouse
    ensure_migrated(url)
    with connect(url, autocommit=True) as connection:
        text = render(connection)
    if to is None:
        sys.stdout.write(text)
        return
    draft = to.with_name(f"{to.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(to)
