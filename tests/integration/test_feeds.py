"""Feeds: what becomes of the records of partners' files, from the landing folder to the star."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import Pipeline, content
from warehouse.db.connections import connect
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.feeds.stage import stage_feed
from warehouse.load.publish import publish
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source

Row = tuple[Any, ...]


def an_order(order_id: str = "P-1", *items: Mapping[str, object], **fields: object) -> dict[str, object]:
    """An order as a partner sends it, with one item unless others are given."""
    given = [{**ITEM, **item} for item in items or ({},)]
    total = sum(item["amount"] * item["item_price"] for item in given)  # type: ignore[operator]
    return {**ORDER, "order_id": order_id, "total_price": total, "items": given, **fields}


ITEM = {"product_id": "1", "cuit": "30500000007", "amount": 2, "item_price": 100, "item_price_default": 80}
ORDER = {
    "customer_document_number": "20111222",
    "customer_name": "Ana",
    "customer_birth_day": "1990-05-17",
    "order_dt": "2024-03-10T12:00:00Z",
    "status": "complete",
}


class FeedPipeline:
    """A landing folder, a warehouse, and the feed of orders between them."""

    def __init__(self, warehouse_url: str, lake: Path, source: str = "orders") -> None:
        self.warehouse_url, self.lake, self.source = warehouse_url, lake, read_source(source)
        self.warehouse = connect(warehouse_url, autocommit=True)
        self.messages: list[str] = []
        self.written = 0

    def land(self, name: str, content: bytes | str | list[Any]) -> Path:
        """Write a file: bytes, text, or orders, one on each line; each file is a second younger than the one before."""
        import os

        assert self.source.feed is not None
        path = self.lake / self.source.feed.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(order) + "\n" for order in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.written += 1
        os.utime(path, (1_710_000_000 + self.written,) * 2)
        return path

    def run(self) -> int:
        """Load what is there; returns the run's id."""
        self.messages.clear()
        with start_run(self.warehouse_url, flow=f"ingest-{self.source.name}") as run:
            staged = stage_feed(
                run, self.source, str(self.lake), threshold=DeleteThreshold(), progress=self.messages.append
            )
            self.published = publish(run, staged, progress=self.messages.append)
            return run.run_id

    def rows(self, query: str) -> list[Row]:
        return self.warehouse.execute(query.encode()).fetchall()

    def counts(self) -> list[Row]:
        """Of each file: path, status, records, loaded, in quarantine, discarded, superseded."""
        return self.rows(
            "select path, status, line_count, rows_loaded, rows_quarantined, rows_discarded, rows_superseded "
            "from audit.file order by file_id"
        )

    def waiting(self) -> list[Row]:
        return self.rows(
            "select coalesce(row_key[1], file_id || ':' || line_number), array_to_string(rules, '; ') "
            "from audit.quarantine where resolved_at is null order by quarantine_id"
        )

    def facts(self) -> list[Row]:
        return self.rows(
            "select order_id, line_id, quantity::integer, net_amount::integer from dwh.fact_order_item "
            "where source_system = 'orders' order by 1, 2"
        )


@pytest.fixture
def orders(warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path / "lake")
    yield pipeline
    pipeline.warehouse.close()


def test_orders_are_kept_as_they_came_and_exploded_into_the_fact(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1", {}, {"product_id": "2"}, extra=[1.50]), an_order("P-2")])
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 2, 0, 0, 0)]
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-1", "2", 2, 200), ("P-2", "1", 2, 200)]
    assert orders.rows(
        "select order_id, total_price, _rescued_data, _file, _line from raw.orders_order order by 1"
    ) == [
        ("P-1", 400, {"extra": [1.5]}, "a.json", 1),
        ("P-2", 200, None, "a.json", 2),
    ]
    assert orders.waiting() == []


def test_an_order_and_its_items_wait_together_and_leave_what_was_loaded_before(orders: FeedPipeline) -> None:
    orders.land(
        "a.json", [an_order("P-1"), an_order("P-2", {}, {}), an_order("P-3", {}, {"product_id": None})]
    )
    orders.run()
    before = orders.facts()
    assert before == [("P-1", "1", 2, 200), ("P-2", "1", 2, 200), ("P-2", "2", 2, 200)]
    assert orders.waiting() == [("P-3", "product id is missing")]
    # Refused as it came, refused for an item, a later version with fewer items, and one that is new.
    orders.land(
        "b.json",
        [
            an_order("P-1", customer_name=None),
            an_order("P-2", {"item_price": 70}, {}),
            an_order("P-4", {"amount": 3}),
        ],
    )
    orders.run()
    assert orders.facts() == [*before, ("P-4", "1", 3, 300)]
    assert orders.waiting() == [
        ("P-3", "product id is missing"),
        ("P-1", "customer name is missing"),
        ("P-2", "unit price is not above the base price"),
    ]
    assert orders.counts() == [("a.json", "loaded", 3, 2, 1, 0, 0), ("b.json", "loaded", 3, 1, 2, 0, 0)]
    orders.land("c.json", [an_order("P-2", {"amount": 5}), an_order("P-3")])
    orders.run()
    assert orders.facts() == [
        ("P-1", "1", 2, 200), ("P-2", "1", 5, 500), ("P-3", "1", 2, 200), ("P-4", "1", 3, 300)
    ]  # fmt: skip
    assert orders.waiting() == [("P-1", "customer name is missing")]
    assert orders.counts() == [
        ("a.json", "loaded", 3, 1, 0, 0, 2),
        ("b.json", "loaded", 3, 1, 1, 0, 1),
        ("c.json", "loaded", 2, 2, 0, 0, 0),
    ]
    ((row_data,),) = orders.rows("select row_data from audit.quarantine where row_key = '{P-1}'")
    assert row_data == {
        **{name: value for name, value in an_order("P-1").items() if name != "customer_name"},
        "order_dt": "2024-03-10T12:00:00+00:00",
    }


def test_the_last_version_counts_within_a_file_and_across_files(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1"), an_order("P-1", {"amount": 7}), an_order("P-1", status=None)])
    orders.land("b.json", [an_order("P-2", status=None), an_order("P-2")])
    orders.run()
    assert orders.facts() == [("P-1", "1", 7, 700), ("P-2", "1", 2, 200)]
    assert orders.waiting() == [("P-1", "status is missing")]
    assert orders.counts() == [("a.json", "loaded", 3, 1, 1, 0, 1), ("b.json", "loaded", 2, 1, 0, 0, 1)]


HOSTILE = {
    b'{"order_id": 1, "order_id": 2}': "field is there twice",
    b'{"order_id": "P-0", "total_price": NaN}': "number is not finite",
    b'{"order_id": "P-0", "total_price": -Infinity}': "number is not finite",
    b'{"order_id": "P-0"} {"order_id": "P-00"}': "more than one record on a line",
    b'{"order_id": "\\ud800"}': "text is no Unicode",
    b'{"order_id": "a\\u0000b"}': "text has a NUL character",
    b'{"order_id": "\xff"}': "record is not UTF-8",
    b"[" * 3000: "record is nested too deeply",
    b'"a text"': "record is not an object",
    b'{"items": []}': "order_id is missing",
    b'{"order_id": {"a": 1}}': "order_id is missing",
    b'{"order_id": "P-0", "sta': "record is cut off",
}


def test_whatever_cannot_be_read_waits_with_its_bytes_and_stops_nothing(orders: FeedPipeline) -> None:
    good = json.dumps(an_order("P-1", customer_name="x" * 10_000_000)).encode()
    lines = list(HOSTILE)
    orders.land("a.json", b"\xef\xbb\xbf" + good + b"\r\n\r\n" + b"\r\n".join(lines))
    orders.land("utf16.json", ("\ufeff" + json.dumps(an_order("P-16"))).encode("utf-16-le"))
    orders.land("empty.json", b"")
    orders.run()
    assert [rules for _, rules in orders.waiting()] == list(HOSTILE.values())
    assert orders.counts() == [
        ("a.json", "loaded", 13, 1, 12, 0, 0),
        ("utf16.json", "loaded", 1, 1, 0, 0, 0),
        ("empty.json", "loaded", 0, 0, 0, 0, 0),
    ]
    ((size,),) = orders.rows("select length(customer_name) from raw.orders_order where order_id = 'P-1'")
    assert size == 10_000_000
    (copy,) = (orders.lake / "bad" / "orders").iterdir()
    assert copy.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_numbers_stay_as_they_are_written(orders: FeedPipeline) -> None:
    order = json.dumps(an_order("P-1", customer_document_number="007", total_price=0)).replace(
        '"total_price": 0', '"total_price": 123456789012345678.10, "other": 1.000000000000000000000001'
    )
    orders.land("a.json", order)
    orders.run()
    assert orders.rows(
        "select total_price::text, customer_document_number, _rescued_data::text from raw.orders_order"
    ) == [("123456789012345678.10", "007", '{"other": 1.000000000000000000000001}')]


def test_an_array_is_read_element_by_element(orders: FeedPipeline) -> None:
    many = [an_order(f"P-{n}", {}, {}) for n in range(3000)]
    orders.land("a.json", json.dumps(many))
    text = json.dumps([an_order("Q-1"), an_order("Q-2"), an_order("Q-3")], indent=2)
    orders.land("b.json", text.replace('"order_id": "Q-2",', '"order_id": "Q-2" oops'))
    orders.land("c.json", json.dumps([an_order("R-1"), an_order("R-2")])[:-40])
    orders.land("d.json", json.dumps([an_order("S-1")]) + "\n{}")
    orders.run()
    assert orders.counts() == [
        ("a.json", "loaded", 3000, 3000, 0, 0, 0),
        ("b.json", "loaded", 3, 2, 1, 0, 0),
        ("c.json", "truncated", 2, 1, 1, 0, 0),
        ("d.json", "loaded", 2, 1, 1, 0, 0),
    ]
    assert [rules for _, rules in orders.waiting()] == [
        "record is not JSON", "record is cut off", "record is after the end"
    ]  # fmt: skip
    assert len(orders.facts()) == 6000 + 4


def test_files_are_known_by_their_content(orders: FeedPipeline) -> None:
    path = orders.land("a.json", [an_order("P-1")])
    orders.land("copy.json", [an_order("P-1")])
    orders.run()
    expected = [("a.json", "loaded", 1, 1, 0, 0, 0), ("copy.json", "copy", 1, 0, 0, 0, 0)]
    assert orders.counts() == expected
    path.rename(path.with_name("renamed.json"))
    orders.run()
    assert orders.counts() == [("renamed.json", *expected[0][1:]), expected[1]]
    # Other content under the same name is a correction; what it does not name stays.
    orders.land("renamed.json", [an_order("P-1", {"amount": 9}), an_order("P-2")])
    orders.run()
    assert orders.facts() == [("P-1", "1", 9, 900), ("P-2", "1", 2, 200)]
    assert orders.counts() == [
        ("renamed.json", "replaced", 1, 0, 0, 0, 1),
        expected[1],
        ("renamed.json", "loaded", 2, 2, 0, 0, 0),
    ]
    assert "renamed.json (its content replaces what was loaded before): 2 records" in orders.messages


def test_a_file_that_goes_on_is_read_from_where_it_ended(orders: FeedPipeline) -> None:
    first, second, third = (json.dumps(an_order(f"P-{n}")) for n in (1, 2, 3))
    orders.land("a.json", first + "\n" + second[:50])
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 1, 1, 0, 0)]
    orders.land("a.json", first + "\n" + second + "\n" + third)
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 3, 3, 0, 0, 0)]
    assert orders.waiting() == []
    assert [line for (line,) in orders.rows("select _line from raw.orders_order order by order_id")] == [
        1,
        2,
        3,
    ]


def test_running_again_changes_nothing(orders: FeedPipeline) -> None:
    orders.land(
        "a.json", [an_order("P-1"), an_order("P-2", status=None), an_order("P-3", {}, {"item_price": 1})]
    )
    orders.land("b.json", b'{"order_id')
    orders.run()
    before = content(orders.warehouse), orders.counts(), orders.waiting()
    orders.run()
    assert (content(orders.warehouse), orders.counts(), orders.waiting()) == before
    assert orders.published.rows_changed == 0


@pytest.fixture
def beside_the_shop(
    shop_url: str, warehouse_url: str, tmp_path: Path
) -> Iterator[tuple[Pipeline, FeedPipeline]]:
    """A shop and the feed of orders, in one warehouse."""
    shop, feed = Pipeline(shop_url, warehouse_url), FeedPipeline(warehouse_url, tmp_path / "lake")
    yield shop, feed
    shop.close()
    feed.warehouse.close()


MEMBERS = """
    select fact.order_id, customer.source_system || ' ' || customer.customer_id, product.source_system || ' ' ||
        product.product_id, company.source_system || ' ' || company.company_id, fact.currency
    from dwh.fact_order_item as fact
    inner join dwh.dim_customer as customer using (customer_key)
    inner join dwh.dim_product as product using (product_key)
    inner join dwh.dim_company as company using (company_key)
    where fact.source_system = 'orders' order by fact.order_id
"""


def test_customers_products_and_sellers_are_the_shops_or_inferred_until_the_shop_has_them(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.insert("customer", id=2, document_number="0055", username="b", email="b@example.com")
    shop.capture()
    feed.land(
        "a.json",
        [
            an_order("P-1", customer_document_number="20.111.222"),
            an_order("P-2", {"product_id": "77", "cuit": "30-7"}, customer_document_number="0099"),
            an_order("P-3", customer_document_number="0055"),
        ],
    )
    feed.run()
    known, inferred = "shop 1", ("P-2", "orders 0099", "orders 77", "orders 307", None)
    assert feed.rows(MEMBERS) == [
        ("P-1", known, known, known, "USD"), inferred, ("P-3", "shop 2", known, known, "USD")
    ]  # fmt: skip
    assert feed.rows(
        "select order_id, line_id, order_total_price, customer_document_number, customer_name, "
        "customer_birth_day::text, product_id, cuit, amount, item_price, item_price_default, record_timestamp::text "
        "from mart.orders where source_system = 'orders' and order_id < 'P-3' order by order_id"
    ) == [
        (
            "P-1",
            "1",
            200,
            "20111222",
            "Ana",
            "1990-05-17",
            "1",
            "30500000007",
            2,
            100,
            80,
            "2024-03-09 16:00:01+00",
        ),
        ("P-2", "1", 200, "0099", "Ana", "1990-05-17", "77", "307", 2, 100, 80, "2024-03-09 16:00:01+00"),
    ]
    # They arrive in the shop; and two customers share a number.
    shop.insert("company", id=5, cuit="307", name="Late", country="AR")
    shop.insert("product", id=77, company_id=5)
    shop.insert("customer", id=9, document_number="0099", username="c", email="c@example.com")
    shop.insert("customer", id=3, document_number="0055", username="d", email="d@example.com")
    shop.capture()
    assert feed.rows(MEMBERS)[1] == inferred
    feed.run()
    assert feed.rows(MEMBERS) == [
        ("P-1", known, known, known, "USD"),
        ("P-2", "shop 9", "shop 77", "shop 5", "USD"),
        ("P-3", " ", known, known, "USD"),
    ]
    assert (
        "1 rows of order_item name a customer that several members may be: the unknown one" in feed.messages
    )
    shop.do("delete from customer where id = 3")
    shop.capture()
    feed.run()
    assert feed.published.rows_changed == 0, "both were valid when it was ordered"


def test_an_order_that_the_shop_has_too_counts_once_as_the_shop_has_it(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    every_fact = "select source_system, order_id, line_id from dwh.fact_order_item order by 1, 2, 3"
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    feed.land("a.json", [an_order("1", {}, {}), an_order("2", {}, {}), an_order("P-1")])
    feed.run()
    assert "1 events of order_item are another source's, which takes precedence" in feed.messages
    both = [("orders", "2", "1"), ("orders", "2", "2"), ("orders", "P-1", "1"), ("shop", "1", "1")]
    assert feed.rows(every_fact) == both
    # The shop hears of it later; then the shop's order is gone.
    shop.order(2, "2024-03-10")
    shop.capture()
    assert feed.rows(every_fact) == [("orders", "P-1", "1"), ("shop", "1", "1"), ("shop", "2", "1")]
    shop.do("delete from order_item where sales_order_id = 2", "delete from sales_order where id = 2")
    shop.capture()
    assert feed.rows(every_fact) == [("orders", "P-1", "1"), ("shop", "1", "1")]
    feed.run()
    assert feed.rows(every_fact) == both
    assert feed.counts() == [("a.json", "loaded", 3, 3, 0, 0, 0)]
