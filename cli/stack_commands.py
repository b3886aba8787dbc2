"""`dwh up`, `dwh down`, `dwh psql`: the local stack, and psql in any database of the settings."""

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from stack.local import LocalStack
    from warehouse.settings import Settings

# psql's own options are passed on unchanged, with and without `--` before them.
PSQL_CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def up(
    server: Annotated[bool, typer.Option(help="Start a Prefect server with its UI.")] = True,
    worker: Annotated[
        bool, typer.Option(help="Start a worker and a server, and register all deployments.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Start `dwh live`, which follows the sources, in the background.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the local stack: embedded PostgreSQL, Prefect server and, with --worker, a worker.

    PostgreSQL is not started if DWH_WAREHOUSE_URL and the URL of a source (DWH_SHOP_URL, say) are set.
    """
    from cli.output import err
    from flows.databases import embedded_databases, with_urls
    from stack import local
    from stack.live import launch_live
    from warehouse.settings import Settings

    settings = Settings.load()
    with err.status("starting") as status:
        had_worker = local.state(settings.home).worker_pid is not None
        stack = local.up(
            settings.home,
            databases=embedded_databases(settings),
            server=server,
            worker=worker,
            progress=status.update,
        )
        if server or worker:
            status.update("fetching a GeoIP file")
            fetch_missing_geoip(settings, always=worker)
        if worker:
            status.update("registering deployments")
            _deploy(settings)
            if not had_worker:
                from flows.dead_runs import mark_dead_runs

                mark_dead_runs(settings)
        if live:
            status.update("starting live")
            with_urls(settings)
            launch_live(settings.home, [sys.executable, "-c", "from cli.main import main; main(['live'])"])
            stack = local.state(settings.home)
    _show(stack, settings, as_json)


def down() -> None:
    """Stop the local stack and every process that it started; the data stay."""
    from cli.output import err
    from stack import local
    from warehouse.settings import Settings

    home = Settings.load().home
    with err.status("stopping") as status:
        local.down(home, progress=status.update)
    err.print("The local stack is stopped.")


def psql(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE|warehouse] [--] [PSQL ARGUMENT]", show_default=False),
    ] = None,
) -> None:
    """Open psql in the database of a declared source, by default in the warehouse.

    Examples: `dwh psql`, `dwh psql shop`, `dwh psql warehouse -- -Atc 'select 1'`
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from flows.databases import SHOP, WAREHOUSE, shop_url, with_urls
    from warehouse.errors import SettingsError
    from warehouse.settings import Settings
    from warehouse.sources.declaration import is_feed
    from warehouse.sources.registry import find_source

    database, arguments = _split(words or [])
    settings = Settings.load()
    if database == WAREHOUSE:
        url = with_urls(settings, migrate=False).warehouse
    elif database == SHOP:
        url = shop_url(settings)
    elif is_feed(find_source(database, settings.sources)):
        raise SettingsError(
            f"{database} is read from files: it has no database.", hint="`dwh psql` has its rows."
        )
    else:
        url = settings.source_url(database)
    connection = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    # Other users can read a command line, but not the environment.
    password = connection.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    program = _psql()
    sys.stdout.flush()
    os.execve(program, [program, make_conninfo(**connection), *arguments], environment)


def fetch_missing_geoip(settings: "Settings", *, always: bool) -> None:
    """Fetch a GeoIP file if there is none and there are web logs, or `always`, since a worker may meet some soon.

    If that fails, the reason is printed, and the weekly flow tries again.
    """
    from cli.output import err
    from warehouse import geoip
    from warehouse.errors import WarehouseError
    from warehouse.files import lake
    from warehouse.weblogs.files.landing import landing_folder

    if geoip.path_of(settings).exists() or not (always or not lake.what_is_missing(landing_folder(settings))):
        return
    try:
        # Make only short attempts: without internet, the stack should start soon.
        err.print(str(geoip.update(settings, pauses=(1,), timeout_seconds=10)), markup=False, soft_wrap=True)
    except WarehouseError as error:
        err.print(f"No GeoIP file: {error}", markup=False, soft_wrap=True)


def _deploy(settings: "Settings") -> None:
    """Register the deployments on the stack's own server, whatever PREFECT_API_URL says."""
    from cli.tracking import track_flows

    os.environ.pop("PREFECT_API_URL", None)
    track_flows(settings.home)
    from cli.operations import describe
    from cli.output import err
    from flows.databases import loaded_sources
    from flows.deploy import deploy
    from flows.deployments import read_declarations

    declared = read_declarations(loaded_sources(settings), time_zone=settings.time_zone)
    for line in describe(deploy(declared)):
        err.print(line, markup=False, soft_wrap=True)


def _split(words: list[str]) -> tuple[str, list[str]]:
    """Split the words into the database and the arguments of psql."""
    database, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("warehouse", words)
    return database, rest[1:] if rest[:1] == ["--"] else rest


def _psql() -> str:
    from stack.errors import StackError
    from stack.programs import programs

    try:
        return str(programs(18) / "psql")
    except StackError:
        found = shutil.which("psql")
        if found is None:
            raise
        return found


def _show(stack: "LocalStack", settings: "Settings", as_json: bool) -> None:
    from cli.output import out, show_json
    from flows.databases import embedded_databases

    places = {f"psql {name}": stack.postgres.psql_command(name) for name in embedded_databases(settings)}
    if stack.api_url:
        places |= {"Prefect UI": stack.ui_url or "", "Prefect API": stack.api_url}
    if stack.worker_pid:
        places["worker pid"] = str(stack.worker_pid)
    if stack.live_pid:
        places["live pid"] = str(stack.live_pid)
    if as_json:
        show_json({name.lower().replace(" ", "_"): value for name, value in places.items()})
        return
    for name, value in places.items():
        out.print(f"[bold]{name:16}[/]", end="")
        out.print(value, markup=False, soft_wrap=True)
