"""Feeds that a newcomer declares beside those of the package."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import PACKAGED, Pipeline
from warehouse.reconcile.reconcile import reconcile_feed, reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import Source, read_declaration

SALES = (
    "select source_system, order_id, line_id, net_amount::integer from dwh.fact_order_item order by 1, 2, 3"
)


def second_feed(folder: Path, name: str, precedence: str, customer_by: str = "document_number") -> Source:
    """The feed of orders once more, under another name, with its own precedence and look-up of customers."""
    shutil.copytree(PACKAGED / "orders", folder / name)
    for path in (folder / name).rglob("*.*"):
        text = path.read_text().replace("orders_", f"{name}_").replace("/orders", f"/{name}")
        text = text.replace('precedence = ["shop", "orders"]', f"precedence = {precedence}")
        path.write_text(text.replace('by = "document_number"', f'by = "{customer_by}"'))
    (folder / name / f"{name}_order.yml").write_text(
        (PACKAGED.parents[1] / "checks" / "orders_order.yml").read_text().replace("orders_", f"{name}_")
    )
    return read_declaration(folder / name)


@pytest.fixture
def two_feeds(
    shop_url: str, warehouse_url: str, tmp_path: Path
) -> Iterator[tuple[Pipeline, FeedPipeline, FeedPipeline]]:
    """A shop, the feed of orders and a marketplace, in one warehouse."""
    shop = Pipeline(shop_url, warehouse_url)
    orders, market = (FeedPipeline(warehouse_url, tmp_path / "lake") for _ in range(2))
    market.source = second_feed(tmp_path / "sources", "market", '["shop", "market"]')
    yield shop, orders, market
    shop.close()
    orders.warehouse.close()
    market.warehouse.close()


def test_events_of_two_feeds_yield_to_the_shop_whichever_feed_was_loaded_last(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline],
) -> None:
    shop, orders, market = two_feeds
    shop.open_shop()
    shop.capture()
    orders.land("a.json", [an_order("1"), an_order("2"), an_order("P-1")])
    orders.run()
    # P-1 is another order there: no declaration says that both feeds have the same ones.
    market.land("a.json", [an_order("1"), an_order("3"), an_order("P-1")])
    market.run()
    shop.order(1, "2024-03-10")
    shop.capture()
    expected = [
        ("market", "3", "1", 200),
        ("market", "P-1", "1", 200),
        ("orders", "2", "1", 200),
        ("orders", "P-1", "1", 200),
        ("shop", "1", "1", 190),
    ]
    assert orders.rows(SALES) == expected
    for feed in (orders, market, orders):
        feed.run()
        assert orders.rows(SALES) == expected
    with start_run(orders.warehouse_url, flow="reconcile") as run:
        verdicts = [
            *reconcile_source(run, shop.source, shop.shop_url, repair=False),
            *reconcile_feed(run, orders.source, repair=False),
            *reconcile_feed(run, market.source, repair=False),
        ]
    # Nobody has refreshed the marts.
    assert [one for one in verdicts if one.rows_differing and one.layer != "mart"] == []
    shop.do("delete from order_item", "delete from sales_order")
    shop.capture()
    orders.run()
    market.run()
    assert orders.rows(SALES) == [
        ("market", "1", "1", 200),
        *expected[:2],
        ("orders", "1", "1", 200),
        *expected[2:4],
    ]


def test_a_feed_that_declares_no_precedence_any_more_counts_beside_the_shop(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, orders, market = two_feeds
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    orders.land("a.json", [an_order("1")])
    orders.run()
    market.land("a.json", [an_order("1")])
    market.run()
    assert orders.rows(SALES) == [("shop", "1", "1", 190)]
    market.source = second_feed(tmp_path / "changed", "market", "[]")
    market.run()
    assert orders.rows(SALES) == [("market", "1", "1", 200), ("shop", "1", "1", 190)]
    shop.do("update order_item set quantity = 3, updated_at = now()")
    shop.capture()
    orders.run()
    assert orders.rows(SALES) == [("market", "1", "1", 200), ("shop", "1", "1", 290)]


def test_customers_are_looked_up_again_once_the_declaration_looks_them_up_by_another_attribute(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, _, market = two_feeds
    shop.open_shop()
    shop.capture()
    customers = (
        "select distinct customer.source_system, customer.customer_id from dwh.fact_order_item "
        "inner join dwh.dim_customer as customer using (customer_key)"
    )
    market.source = second_feed(tmp_path / "wrong", "market", '["shop", "market"]', "username")
    market.land("a.json", [an_order("1")])
    market.run()
    assert market.rows(customers) == [("market", "20111222")]
    market.source = second_feed(tmp_path / "right", "market", '["shop", "market"]')
    market.run()
    assert market.rows(customers) == [("shop", "1")]
    market.run()
    assert market.published.rows_changed == 0


def test_a_record_that_waits_keeps_the_nulls_within_its_columns_of_json(
    warehouse_url: str, tmp_path: Path
) -> None:
    shutil.copytree(PACKAGED / "orders", tmp_path / "orders")
    path = tmp_path / "orders" / "source.toml"
    path.write_text(path.read_text().replace('lead_id = "text"', 'lead_id = "text"\nnotes = "jsonb"'))
    orders = FeedPipeline(warehouse_url, tmp_path / "lake")
    orders.source = read_declaration(tmp_path / "orders")
    notes = {"by": None, "read": [{"at": None}]}
    orders.land(
        "a.json", [an_order("P-1", notes=notes), an_order("P-2", notes=notes, status=None, lead_id=None)]
    )
    orders.run()
    assert orders.rows("select notes from raw.orders_order") == [(notes,)]
    ((waiting,),) = orders.rows("select row_data from audit.quarantine")
    assert (waiting["notes"], waiting.keys() & {"status", "lead_id"}) == (notes, set())
    orders.warehouse.close()
