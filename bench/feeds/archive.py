"""Measure the cost of the archive for `dwh run shop`, a rebuild from it, and the order feed beside a shop."""

import shutil
import statistics
from pathlib import Path

import psycopg

from bench.capture.shops import change_a_day, make_shop, rest
from bench.feeds.order_feed import Place, Report, make_files, run_orders
from bench.feeds.process import DWH, Timing, count, dwh_environment, run_timed
from stack.postgres import EmbeddedPostgres
from warehouse.migrations.revisions import upgrade

# Result by which the warehouses with and without archive are compared: it has to be the same.
CHECK = """
    select (count(*), sum(net_amount), count(distinct customer_key), (select count(*) from dwh.dim_customer))::text
    from dwh.fact_order_item
"""


def measure(
    postgres: EmbeddedPostgres,
    folder: Path,
    *,
    shop_orders: int,
    feed_orders: int,
    files: int,
    rounds: int,
    report: Report,
) -> dict[str, object]:
    """Measure the share of the archive in a run's seconds, and the rebuild's ratio to the first load, as medians."""
    shop = make_shop(postgres, shop_orders, "shop", report)
    timings: dict[str, list[Timing]] = {}

    def load(kind: str, place: Place, archive: bool) -> None:
        environment = _environment(place, shop, archive)
        name = f"{kind}, {'archived' if archive else 'not archived'}"
        timings.setdefault(name, []).append(run_timed([*DWH, "run", "shop"], postgres, environment))
        report(name, timings[name][-1])

    for round_ in range(1, rounds + 1):
        places = {
            archive: _place(postgres, folder, f"{'with' if archive else 'without'}_archive_{round_}")
            for archive in (True, False)
        }
        # The first contender finds other caches than the next: take turns.
        turns = sorted(places, reverse=round_ % 2 == 1)
        for archive in turns:
            load("first load", places[archive], archive)
        for place in places.values():
            rest(place.url)
        change_a_day(shop, round_)
        for archive in turns:
            load("incremental", places[archive], archive)
        place = places[True]
        if (states := {one: _state(one) for one in places.values()})[place] != states[places[False]]:
            raise SystemExit(f"With and without the archive, the star differs: {list(states.values())}")
        timings.setdefault("rebuild", []).append(_rebuild(place, shop))
        report("rebuild of all", timings["rebuild"][-1])
        if _state(place) != states[place]:
            raise SystemExit(f"The star was rebuilt as {_state(place)}: it was {states[place]}")
        if round_ < rounds:
            for one in places.values():
                shutil.rmtree(one.folder)
    seconds = {name: statistics.median(one.seconds for one in several) for name, several in timings.items()}
    cpu = {
        name: statistics.median(one.process_cpu + one.server_cpu for one in several)
        for name, several in timings.items()
    }
    beside = _orders_beside_the_shop(place, shop, feed_orders, files, report)
    return {
        "archive_share_of_first_load": _share(seconds, "first load"),
        "archive_share_of_incremental": _share(seconds, "incremental"),
        "archive_share_of_first_load_cpu": _share(cpu, "first load"),
        "archive_share_of_incremental_cpu": _share(cpu, "incremental"),
        "rebuild_ratio_to_first_load": round(seconds["rebuild"] / seconds["first load, archived"], 2),
        "items_per_second_beside_a_shop": beside,
        "shop_orders": shop_orders,
        "archive_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "archive_cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
    }


def _share(medians: dict[str, float], kind: str) -> float:
    """Compute the share of the archive in a run: 1 - cost without the archive ÷ cost with it."""
    return round(1 - medians[f"{kind}, not archived"] / medians[f"{kind}, archived"], 3)


def _place(postgres: EmbeddedPostgres, folder: Path, name: str) -> Place:
    place = Place(postgres, folder / name / "lake", name, folder / name)
    place.folder.mkdir(parents=True)
    postgres.create_database(name)
    upgrade(place.url)
    return place


def _environment(place: Place, shop: str, archive: bool) -> dict[str, str]:
    return dwh_environment(
        place.folder,
        warehouse_url=place.url,
        shop_url=shop,
        lake=str(place.lake),
        archive=str(archive).lower(),
    )


def _rebuild(place: Place, shop: str) -> Timing:
    """Drop the database, and rebuild all of it from the archive."""
    with psycopg.connect(place.postgres.url(), autocommit=True) as connection:
        connection.execute(f'drop database "{place.database}"'.encode())
    place.postgres.create_database(place.database)
    upgrade(place.url)
    return run_timed([*DWH, "rebuild", "--all"], place.postgres, _environment(place, shop, True))


def _state(place: Place) -> str:
    with psycopg.connect(place.url) as connection:
        (state,) = connection.execute(CHECK.encode()).fetchone() or ("",)
    return str(state)


def _orders_beside_the_shop(place: Place, shop: str, orders: int, files: int, report: Report) -> int:
    """Measure items per second of the order feed in a warehouse with the shop to whose rows it refers."""
    lake = place.folder / "orders"
    made = make_files(lake, orders, files, shop)
    before = count(place.url, "select count(*) from dwh.fact_order_item")
    timing = run_orders(Place(place.postgres, lake, place.database, place.folder), shop_url=shop)
    items = count(place.url, "select count(*) from dwh.fact_order_item") - before
    if items != made.items:
        raise SystemExit(f"Beside the shop, {items:,} of {made.items:,} items are there")
    rate = round(items / timing.seconds)
    report("orders beside the shop", timing, f"{rate:10,} items a second")
    return rate
