"""`dwh demo`: the whole pipeline on generated data, twice: a first load, then the changes of one day."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warehouse.errors import counted

if TYPE_CHECKING:
    import psycopg

    from stack.postgres import EmbeddedPostgres
    from warehouse.settings import Settings

# Days of files before the one that the demo simulates, and what each day brings.
FILE_DAYS = 7
LOG_LINES_A_DAY, LEADS_A_DAY, PARTNER_ORDERS_A_DAY = 3000, 100, 50
MARTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "top_devices_by_users": (
        "Top 5 devices by users",
        {"device_rank": "#", "device": "device", "user_count": "users", "request_count": "requests"},
    ),
    "countries_by_logged_users": (
        "Countries by logged users",
        {"country_rank": "#", "country_name": "country", "user_count": "users", "request_count": "requests"},
    ),
    "most_viewed_products": (
        "Top 5 most viewed products in the country with most logged users",
        {"product_rank": "#", "product_name": "product", "view_count": "views", "country_name": "country"},
    ),
    "monthly_sales": (
        "Monthly sales of the last year",
        {"month": "month", "currency": "currency", "order_count": "orders", "gross_amount": "gross",
         "discount_amount": "discount", "net_amount": "net", "profit_amount": "profit"},
    ),
    "lead_source_conversion": (
        "Conversion per lead source",
        {"lead_source": "source", "lead_count": "leads", "matched_lead_count": "matched",
         "converted_lead_count": "converted"},
    ),
}  # fmt: skip
COUNTRIES_SHOWN = 10
# How long the demo waits for live loading to start, and to load the order.
LIVE_SECONDS = 120


def demo(
    rows: Annotated[int, typer.Option(min=1, max=10**9, help="Orders in the generated shop.")] = 5000,
    changes: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="Changes on the simulated day; default: by the orders of the weeks before."
        ),
    ] = None,
) -> None:
    """Run the whole pipeline on generated data: a first load, a day of changes, a second load.

    The data are a shop, its web logs, lists of leads and orders of partners.

    Always uses the embedded databases in DWH_HOME, whatever else is set. Run again, it goes on with today.
    `dwh down` stops what it has started; the data stay.
    """
    from cli.output import err, out, show_log
    from cli.run import flow_named

    began = time.monotonic()
    with show_log("starting") as status:
        with _stage(status, "Starting PostgreSQL and, in the background, Prefect"):
            settings, postgres = _start()
        with _stage(status, "Preparing the warehouse's tables, a shop, its web logs and files of partners"):
            _prepare(settings, rows)
        with _stage(status, "Waiting for the Prefect server"):
            ui_url = _track(settings.home)
        with _stage(status, "Loading everything that is new"):
            _load()
        with _stage(status, "Simulating one day of changes in the shop and on its site"):
            _next_day(settings, changes)
        with _stage(status, "Loading what that day changed"):
            _load()
        with _stage(status, "Building the features of customers"):
            flow_named("build-features")()
        with _stage(status, "Writing the report"):
            report = _report(settings)
        with _stage(status, "Placing an order through the API, with live following the shop"):
            freshness = _order_live(settings)
    _show_marts(settings)
    out.print(f"[bold]Live[/]        {freshness}", soft_wrap=True)
    out.print(f"[bold]Report[/]      {report}", soft_wrap=True)
    out.print(f"[bold]Prefect UI[/]  {ui_url}/runs", soft_wrap=True)
    out.print("[bold]SQL[/]         ", end="")
    out.print(postgres.psql_command("warehouse"), markup=False, soft_wrap=True)
    out.print()
    # `make demo` runs this program without activating .venv: show it with its path.
    program = "dwh" if shutil.which("dwh") else sys.argv[0]
    following = f"Next: `{program} status`, `{program} demo` again, `{program} down`."
    err.print(f"Done in {time.monotonic() - began:.0f} s. {following}", markup=False, soft_wrap=True)


@contextmanager
def _stage(status: object, title: str) -> Iterator[None]:
    from cli.output import err

    err.print(f"[bold]{title}[/]")
    status.update(title)  # type: ignore[attr-defined]
    began = time.monotonic()
    yield
    err.print(f"[green]✓[/] {title}: {time.monotonic() - began:.1f} s")


def _start() -> "tuple[Settings, EmbeddedPostgres]":
    """Start the stack, and set the environment of this process so that the flows that it runs use its databases."""
    import os

    from flows.databases import SHOP, with_urls
    from stack import local
    from warehouse.settings import Settings, move_env_file_to_environment

    given = Settings.load()
    stack = local.up(given.home, wait=False)
    # The demo loads its own shop and no other source, whatever environment and .env name.
    move_env_file_to_environment()
    for name in (*given.source_urls, "warehouse"):
        os.environ.pop(f"DWH_{name.upper()}_URL_FILE", None)
        os.environ.pop(f"DWH_{name.upper()}_URL", None)
    settings = with_urls(Settings.load(), start=False)
    os.environ["DWH_SHOP_URL"] = settings.source_url(SHOP)
    os.environ["DWH_WAREHOUSE_URL"] = settings.warehouse
    return Settings.load(), stack.postgres


def _prepare(settings: "Settings", rows: int) -> None:
    import generators.geoip
    from cli.output import progress_lines
    from generators.shop import create_schema, generate
    from generators.shop.visitors import visitors
    from warehouse import geoip
    from warehouse.migrations import revisions

    revisions.upgrade(settings.warehouse, time_zone=settings.time_zone)
    create_schema(settings.source_url("shop"))
    # The shop's history ends before yesterday, which is the day that the demo simulates.
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    if not visitors(settings.source_url("shop"), limit=1)[0]:
        generate(
            settings.source_url("shop"), rows=rows, until=end, defects=0.002, progress=progress_lines("rows")
        )
    if settings.geoip_path is None:
        generators.geoip.write(settings.home / geoip.DEMO)
    if _last_log(settings) is None:
        _write_files(settings, end.date() - timedelta(days=1), FILE_DAYS)


def _next_day(settings: "Settings", changes: int | None) -> None:
    from cli.output import err
    from generators.shop import simulate_day

    counts = simulate_day(settings.source_url("shop"), changes=changes, seed=int(time.time()), defects=0.01)
    kinds = {
        kind: sum(n for name, n in counts.items() if name.endswith(f"_{kind}"))
        for kind in ("inserted", "updated", "deleted")
    }
    changed = [f"{counted(count, 'row')} {kind}" for kind, count in kinds.items()]
    err.print(f"shop: {', '.join(changed)}", markup=False)
    day = (_last_log(settings) or date.min) + timedelta(days=1)
    if day < datetime.now(UTC).date():
        _write_files(settings, day, 1)
    else:
        err.print("files: none, they already reach up to yesterday", markup=False)


def _write_files(settings: "Settings", until: date, days: int) -> None:
    """Write files of some days: the site's logs, lists of leads, and orders of partners."""
    from cli.generate import feed_landing, landing
    from cli.output import err
    from generators import leads, orders, weblogs
    from generators.shop.visitors import visitors

    shop = settings.source_url("shop")
    usernames, product_ids = visitors(shop)
    lines = weblogs.generate(
        landing(settings.lake),
        lines=LOG_LINES_A_DAY * days,
        days=days,
        until=until,
        usernames=usernames,
        product_ids=product_ids,
    ).lines
    contacts = leads.contacts_of(shop)
    leads.generate(
        feed_landing(settings, "leads"), rows=LEADS_A_DAY, days=days, until=until, contacts=contacts
    )
    buyers, articles = orders.buyers_and_articles(shop)
    orders.generate(
        feed_landing(settings, "orders"),
        orders=PARTNER_ORDERS_A_DAY,
        days=days,
        until=until,
        buyers=buyers,
        articles=articles,
    )
    err.print(
        f"files of {counted(days, 'day')} up to {until}: web logs of {lines:,} lines, "
        f"{LEADS_A_DAY * days:,} leads, {PARTNER_ORDERS_A_DAY * days:,} orders of partners",
        markup=False,
    )


def _last_log(settings: "Settings") -> date | None:
    from cli.generate import landing

    logs = sorted(landing(settings.lake).glob("access-????-??-??.log"))
    return date.fromisoformat(logs[-1].stem.removeprefix("access-")) if logs else None


def _track(home: Path) -> str | None:
    import os

    from cli.tracking import track_flows
    from stack.local import state
    from stack.prefect import wait_for_server

    os.environ.pop("PREFECT_API_URL", None)
    wait_for_server(home)
    track_flows(home)
    return state(home).ui_url


def _load() -> None:
    from cli.run import flow_named

    flow_named("daily-warehouse")(from_step="ingest-shop")


def _report(settings: "Settings") -> Path:
    from warehouse.report.write import write

    return write(settings.warehouse, settings.home / "report.html")


def _order_live(settings: "Settings") -> str:
    """Place an order through the API while live loading runs; returns a sentence on how soon it was in the star."""
    import json
    import urllib.request
    from threading import Event, Thread

    from cli.api import running_api
    from flows.live import go_live
    from warehouse.db.connections import connect

    stop = Event()
    live = Thread(target=go_live, args=[["shop"]], kwargs={"stop": stop}, daemon=True)
    with (
        connect(settings.warehouse, autocommit=True) as warehouse,
        connect(settings.source_url("shop"), autocommit=True) as shop,
        running_api(settings.source_url("shop")) as url,
    ):
        row = shop.execute(
            "select (select min(id) from customer), (select min(id) from payment_method), (select min(id) from product)"
        ).fetchone()
        assert row is not None
        customer, payment, product = row
        body = {
            "customerId": customer,
            "payment_id": payment,
            "products": [{"productId": product, "quantity": 1}],
        }
        live.start()
        try:
            _wait_for(warehouse, "select from audit.live where asked_at > started_at and source = %s", "shop")
            request = urllib.request.Request(
                f"{url}/api/v1/orders", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                order = json.load(response)
            began = time.monotonic()
            _wait_for(
                warehouse,
                "select from mart.sales where source_system = 'shop' and order_id = %s",
                str(order["id"]),
            )
            milliseconds = 1000 * (time.monotonic() - began)
        finally:
            stop.set()
            live.join()
    return f"order {order['id']}, placed through the API, was in mart.sales after {milliseconds:.0f} ms"


def _wait_for(connection: "psycopg.Connection", query: str, value: str) -> None:
    until = time.monotonic() + LIVE_SECONDS
    while not connection.execute(query.encode(), [value]).rowcount:
        if time.monotonic() > until:
            from warehouse.errors import WarehouseError

            raise WarehouseError("Live did not follow the shop.", hint="`dwh live` shows why.")
        time.sleep(0.01)


def _show_marts(settings: "Settings") -> None:
    from cli.output import show_table
    from warehouse.db.connections import connect
    from warehouse.load.marts import read

    with connect(settings.warehouse, autocommit=True) as connection:
        for mart, (title, columns) in MARTS.items():
            found = read(connection, mart)
            shown = found[:COUNTRIES_SHOWN] if mart == "countries_by_logged_users" else found
            more = f" (the first {len(shown)} of {len(found)})" if len(shown) < len(found) else ""
            show_table(title + more, shown, columns)
