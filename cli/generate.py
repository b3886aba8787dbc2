"""`dwh generate`: generate a shop, its access logs, and files of feeds."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Commands, Json

if TYPE_CHECKING:
    from warehouse.settings import Settings

generate = Commands(help="Generate data: a shop, web logs, files of feeds.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(min=0, help="The same seed generates the same data.")]
Until = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Last day of the data (UTC); default: yesterday."),
]
FileRows = Annotated[
    int | None,
    typer.Option(min=0, max=10**8, help="Records in each file; default: 5,000, and 2,000 a day."),
]
FileDays = Annotated[int, typer.Option(min=0, max=3660, help="Write files of so many days, one a day.")]


@generate.command()
def shop(
    rows: Annotated[int, typer.Option(min=0, max=10**9, help="Orders.")] = 5000,
    companies: Annotated[int, typer.Option(min=0, max=10**9, help="Companies that sell.")] = 5000,
    customers: Annotated[int, typer.Option(min=0, max=10**9, help="Customers.")] = 5000,
    products: Annotated[int, typer.Option(min=0, max=10**9, help="Products.")] = 5000,
    days: Annotated[
        int, typer.Option(min=0, max=3660, help="Simulate this many days in an existing shop instead.")
    ] = 0,
    changes: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**9,
            help="Changes on each of these days; default: by the orders of the weeks before.",
        ),
    ] = None,
    seed: Seed = 42,
    until: Until = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete the shop's data first.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a shop with two years of history, or simulate the next days of an existing one.

    Examples: `dwh generate shop`, `dwh generate shop --rows 1000000`, `dwh generate shop --days 1`
    """
    from api.preparation import prepare
    from cli.output import progress
    from flows.databases import shop_url
    from generators.shop import create_schema, generate, simulate_day
    from warehouse.settings import Settings

    url = shop_url(Settings.load())
    create_schema(url)
    prepare(url)
    if days:
        counts: dict[str, int] = {}
        with progress("changes") as update:
            for day in range(days):
                name = f"day {day + 1} of {days}"
                day_counts = simulate_day(
                    url,
                    changes=changes,
                    seed=seed + day,
                    progress=lambda _, done, total, name=name: update(name, done, total),  # type: ignore[misc]
                )
                for table, count in day_counts.items():
                    counts[table] = counts.get(table, 0) + count
    else:
        with progress("rows") as update:
            counts = generate(
                url,
                rows=rows,
                companies=companies,
                customers=customers,
                products=products,
                seed=seed,
                until=_end_of(until),
                replace=replace,
                progress=update,
            )
    show_counts("Shop", counts, as_json)


@generate.command()
def weblogs(
    lines: Annotated[int, typer.Option(min=0, max=10**9, help="Lines in all files together.")] = 20_000,
    days: Annotated[int, typer.Option(min=1, max=3660, help="Files, one a day.")] = 7,
    seed: Seed = 42,
    until: Until = None,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress them.")] = False,
    as_json: Json = False,
) -> None:
    """Generate access logs in combined format, and a GeoIP file that knows their addresses.

    Users and products are those of the shop, if there is one.

    Examples: `dwh generate weblogs`, `dwh generate weblogs --lines 1000000 --days 30 --gzip`
    """
    from cli.output import progress
    from flows.databases import shop_url
    from generators.geoip import write
    from generators.shop.visitors import visitors
    from generators.weblogs import generate
    from warehouse import geoip
    from warehouse.settings import Settings

    settings = Settings.load()
    usernames, product_ids = visitors(shop_url(settings))
    if settings.geoip_path is None:
        write(settings.home / geoip.DEMO)
    with progress("lines") as update:
        counts = generate(
            landing(settings.lake),
            lines=lines,
            seed=seed,
            days=days,
            until=until.date() if until else None,
            gzip=gzip,
            usernames=usernames,
            product_ids=product_ids,
            progress=lambda done, total: update("lines", done, total),
        )
    show_counts(
        f"Web logs in {landing(settings.lake)}",
        {"files": len(counts.files), "lines": counts.lines, **counts.bad},
        as_json,
    )


@generate.command()
def orders(
    rows: FileRows = None,
    days: FileDays = 0,
    seed: Seed = 42,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Generate order files of partners: JSON, one order on each line, with known defects.

    Customers and products are those of the shop, if there is one.

    Examples: `dwh generate orders`, `dwh generate orders --days 7`
    """
    from flows.databases import shop_url
    from generators.feed_files import DAILY, FIRST
    from generators.orders import buyers_and_articles, generate
    from warehouse.settings import Settings

    settings = Settings.load()
    buyers, articles = buyers_and_articles(shop_url(settings))
    folder = feed_landing(settings, "orders")
    counts = generate(
        folder,
        orders=rows if rows is not None else DAILY if days else FIRST,
        days=days or 1,
        seed=seed,
        until=until.date() if until else None,
        buyers=buyers,
        articles=articles,
    )
    show_counts(
        f"Orders in {folder}",
        {"files": len(counts.files), "orders": counts.orders, "items": counts.items, **counts.defects},
        as_json,
    )


@generate.command()
def companies(
    rows: FileRows = None,
    days: FileDays = 0,
    seed: Seed = 42,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Generate lists of selling companies: CSV, with known defects.

    Examples: `dwh generate companies`, `dwh generate companies --days 7`
    """
    from generators.companies import generate
    from generators.feed_files import DAILY, FIRST
    from warehouse.settings import Settings

    folder = feed_landing(Settings.load(), "companies")
    counts = generate(
        folder,
        rows=rows if rows is not None else DAILY if days else FIRST,
        days=days or 1,
        seed=seed,
        until=until.date() if until else None,
    )
    show_counts(
        f"Companies in {folder}", {"files": len(counts.files), "rows": counts.rows, **counts.defects}, as_json
    )


@generate.command()
def leads(
    rows: FileRows = None,
    days: FileDays = 0,
    seed: Seed = 42,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Generate lists of leads: CSV and workbooks, with known defects.

    A third of the leads are customers of the shop, if there is one.

    Examples: `dwh generate leads`, `dwh generate leads --days 7`
    """
    from flows.databases import shop_url
    from generators.feed_files import DAILY, FIRST
    from generators.leads import contacts_of, generate
    from warehouse.settings import Settings

    settings = Settings.load()
    folder = feed_landing(settings, "leads")
    counts = generate(
        folder,
        rows=rows if rows is not None else DAILY if days else FIRST,
        days=days or 1,
        seed=seed,
        until=until.date() if until else None,
        contacts=contacts_of(shop_url(settings)),
    )
    show_counts(
        f"Leads in {folder}", {"files": len(counts.files), "rows": counts.rows, **counts.defects}, as_json
    )


def feed_landing(settings: "Settings", feed: str) -> Path:
    """Folder of the lake in which a feed's files arrive."""
    from warehouse.files.locations import local_folder
    from warehouse.sources.registry import read_source

    source = read_source(feed, settings.sources)
    assert source.feed is not None
    return local_folder(settings.lake) / source.feed.landing


def landing(lake: str) -> Path:
    """Folder of the lake in which web logs arrive."""
    from warehouse.files.locations import local_folder
    from warehouse.weblogs.reader.traffic_rules import read_traffic_rules

    return local_folder(lake) / read_traffic_rules().landing


def show_counts(title: str, counts: dict[str, int], as_json: bool) -> None:
    """Print what was generated, by name."""
    from cli.output import show_json, show_table

    if as_json:
        show_json(counts)
        return
    rows = [{"what": name.replace("_", " "), "count": count} for name, count in counts.items() if count]
    show_table(title, rows, empty="nothing was generated")


def _end_of(day: datetime | None) -> datetime | None:
    from datetime import UTC, timedelta

    return day.replace(tzinfo=UTC) + timedelta(days=1) if day else None
