"""Every mart has one row per grain that it states: its key, over two sources, several currencies and bad rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from tests.marts import UNTIL, MartWorld, refresh
from tests.pipeline import Pipeline
from tests.real.northwind_source import csv_folder, load_northwind
from warehouse.errors import AccessRefused, DiskFull, WarehouseError
from warehouse.features.build import build
from warehouse.model.mart import read_marts
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source


def fill(world: MartWorld, northwind_url: str) -> None:
    """The generated world, Northwind beside it where its data are given, and what only a bad day brings."""
    with psycopg.connect(world.shop_url) as shop:
        # One order in two currencies, promotions and payment methods that share a name, a line without either.
        shop.execute("update product set currency = 'EUR' where id % 7 = 0")
        shop.execute("update promotion set name = (select min(name) from promotion)")
        shop.execute(
            "update payment_method set name = (select min(name) from payment_method) where id % 2 = 0"
        )
        shop.execute(
            "update order_item set promotion_id = null, quantity = quantity + 1 where sales_order_id % 5 = 0"
        )
        # Of another category from now on.
        shop.execute(
            "update product set category_id = (select max(category_id) from product) where id % 3 = 0"
        )
        shop.execute("update customer set state = null, name = 'Same' where id % 4 = 0")
        # Wait in quarantine.
        shop.execute("update order_item set quantity = -1, unit_price = -1 where sales_order_id % 50 = 0")
    product_ids = [
        id_ for (id_,) in world.pipeline.shop.execute("select id from product order by id").fetchall()
    ]
    (euro,) = [id_ for id_ in product_ids if id_ % 7 == 0][:1]
    world.pipeline.order(
        10**6, datetime.now(UTC).isoformat(), {"product_id": euro}, {"product_id": product_ids[0]}
    )
    world.pipeline.capture(accept_source=True)
    try:
        folder = csv_folder()
    except pytest.skip.Exception:
        pass
    else:
        load_northwind(northwind_url, folder)
        northwind = Pipeline(northwind_url, world.warehouse_url, read_source("northwind"))
        northwind.capture()
        northwind.close()
    world.lake.landing.joinpath("notes.log").write_text("These are notes.\n" * 3)
    world.lake.load()
    refresh(world.warehouse_url)
    for days in (0, 30):
        with start_run(world.warehouse_url, flow="build-features") as run:
            build(run, currency="USD", as_of=(UNTIL - timedelta(days=days + 1)).date())
    # Two problems of one flow and kind.
    for error in (AccessRefused("The password is wrong."), DiskFull("The disk is full.")):
        with pytest.raises(WarehouseError), start_run(world.warehouse_url, flow="ingest-shop"):
            raise error


def test_every_mart_has_one_row_per_stated_grain(
    mart_world: MartWorld, empty_database_url: Callable[[], str]
) -> None:
    fill(mart_world, empty_database_url())
    repeated, empty = {}, set()
    for mart in read_marts().values():
        key = sql.SQL(", ").join(map(sql.Identifier, mart.key))
        counted = sql.SQL("select count(*) from {} group by {} order by 1 desc").format(
            sql.Identifier("mart", mart.name), key
        )
        counts = [count for (count,) in mart_world.pipeline.warehouse.execute(counted).fetchall()]
        if not counts:
            empty.add(mart.name)
        elif counts[0] > 1:
            repeated[mart.name] = counts[0]
    assert (repeated, empty) == ({}, set())
