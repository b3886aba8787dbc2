"""Leads: from marketing's lists to the star, matched to customers and converted by orders, whatever arrives first."""

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import Pipeline, content
from warehouse.reconcile.reconcile import reconcile_feed
from warehouse.runs.audit import start_run
from warehouse.undo.undo import undo

HEADER = "lead_id,name,company,email,country,interest,source,created\n"
LEADS = (
    HEADER
    + "L-1,Ana,Acme,ANA@example.com ,ar,Toys,Fair,2024-03-01\n"
    + "L-2,Nobody,Acme,nobody@example.com,ar,Toys,Fair,2024-03-01\n"
    + "L-3,Bea,,bea@example.com,br,Toys,Web,2024-03-01\n"
    + "L-4,Cleo,,,ar,Toys,Web,2024-03-01\n"
)
FACTS = """
    select fact.lead_id, customer.customer_id, fact.match_method, fact.match_confidence::text, fact.conversion_method,
        fact.order_source_system, fact.order_id, fact.conversion_count
    from dwh.fact_lead as fact inner join dwh.dim_customer as customer using (customer_key) order by 1
"""


class Feeds:
    """The shop, partners' orders and leads of one warehouse."""

    def __init__(self, shop_url: str, warehouse_url: str, lake: Path) -> None:
        self.shop = Pipeline(shop_url, warehouse_url)
        self.leads = FeedPipeline(warehouse_url, lake, "leads")
        self.orders = FeedPipeline(warehouse_url, lake, "orders")

    def facts(self) -> list[tuple[Any, ...]]:
        return self.leads.rows(FACTS)

    def close(self) -> None:
        self.shop.close()
        self.leads.warehouse.close()
        self.orders.warehouse.close()


@pytest.fixture
def feeds(shop_url: str, warehouse_url: str, tmp_path: Path) -> Iterator[Feeds]:
    made = Feeds(shop_url, warehouse_url, tmp_path / "lake")
    yield made
    made.close()


def arrive_leads(feeds: Feeds) -> None:
    feeds.leads.land("a.csv", LEADS)
    feeds.leads.run()


def arrive_customers(feeds: Feeds) -> None:
    feeds.shop.open_shop()
    feeds.shop.insert(
        "customer", id=2, document_number="2", name=" bea", email="other@example.com", country="BR"
    )
    for number in (3, 4):
        feeds.shop.insert(
            "customer", id=number, document_number=f"{number}", name="Cleo", email=f"{number}@x.com"
        )
    feeds.shop.capture()
    feeds.leads.run()


def arrive_shop_orders(feeds: Feeds) -> None:
    # Without foreign keys an order may be there before its customer.
    feeds.shop.order(1, "2024-02-01")
    feeds.shop.order(2, "2024-03-05", {"status": "cancelled"})
    feeds.shop.order(3, "2024-03-10", {}, {"status": "cancelled"})
    feeds.shop.order(4, "2024-03-20")
    feeds.shop.capture()
    feeds.leads.run()


def arrive_partner_orders(feeds: Feeds) -> None:
    orders = [
        an_order("P-1", lead_id="L-2", order_dt="2024-02-20T00:00:00Z"),
        an_order("P-2", lead_id="L-2", order_dt="2024-02-10T00:00:00Z"),
        an_order("P-3", lead_id="L-9", order_dt="2024-02-10T00:00:00Z"),
        an_order("P-4", lead_id="L-2", status="cancelled", order_dt="2024-02-01T00:00:00Z"),
    ]
    feeds.orders.land("orders.json", orders)
    feeds.orders.run()
    feeds.leads.run()


EVENTS = (arrive_leads, arrive_customers, arrive_shop_orders, arrive_partner_orders)
SAME = [
    ("L-1", "1", "e-mail", "1.00", "matched", "shop", "3", 1),
    ("L-2", "", "none", None, "named", "orders", "P-2", 1),
    ("L-3", "2", "name and country", "0.70", None, None, None, 0),
    ("L-4", "", "ambiguous", None, None, None, None, 0),
]


@pytest.mark.parametrize(
    "order",
    [
        EVENTS,
        EVENTS[::-1],
        *(pytest.param(order, marks=pytest.mark.slow) for order in permutations(EVENTS)),
    ],
    ids=lambda order: " ".join(event.__name__.removeprefix("arrive_") for event in order),
)
def test_leads_are_matched_and_converted_alike_whatever_arrives_first(
    feeds: Feeds, order: tuple[Callable[[Feeds], None], ...]
) -> None:
    feeds.shop.without_foreign_keys()
    for event in order:
        event(feeds)
    assert feeds.facts() == SAME
    assert feeds.leads.rows(
        "select lead_id, name, company_name, email, country, interest, lead_source from dwh.dim_lead "
        "where lead_key > 0 order by 1"
    ) == [
        ("L-1", "Ana", "Acme", "ana@example.com", "AR", "Toys", "fair"),
        ("L-2", "Nobody", "Acme", "nobody@example.com", "AR", "Toys", "fair"),
        ("L-3", "Bea", None, "bea@example.com", "BR", "Toys", "web"),
        ("L-4", "Cleo", None, None, "AR", "Toys", "web"),
    ]
    before = content(feeds.shop.warehouse, ("dwh",))
    feeds.leads.run()
    assert content(feeds.shop.warehouse, ("dwh",)) == before
    # What is followed is what a comparison of everything would find: nothing differs.
    with start_run(feeds.leads.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, feeds.leads.source, repair=False)
    assert [str(verdict) for verdict in verdicts if verdict.verdict == "different"] == []


def test_match_and_conversion_follow_changes_of_customers_and_orders(feeds: Feeds) -> None:
    feeds.shop.without_foreign_keys()
    for event in EVENTS:
        event(feeds)

    def after(*statements: str) -> list[tuple[Any, ...]]:
        feeds.shop.do(*statements)
        feeds.shop.capture()
        feeds.leads.run()
        return feeds.facts()

    def stamp(table: str, change: str, where: str) -> str:
        return f"update {table} set {change}, updated_at = now() where {where}"

    # One that had two lines, of which the last is cancelled now.
    first, *others = SAME
    cancelled = stamp("order_item", "status = 'cancelled'", "sales_order_id = 3")
    assert after(cancelled) == [(*first[:6], "4", 1), *others]
    # An order placed before it, which was cancelled, is not any more.
    assert after(stamp("order_item", "status = 'complete'", "sales_order_id = 2"))[0] == (*first[:6], "2", 1)
    assert after("delete from order_item where sales_order_id in (2, 4)")[0] == (
        *first[:4],
        None,
        None,
        None,
        0,
    )
    # Several customers have the e-mail, then another one alone; those who are deleted match no lead.
    shared = stamp("customer", "email = 'Ana@Example.com'", "id = 2")
    assert after(shared)[0] == ("L-1", "", "ambiguous", None, None, None, None, 0)
    assert after(stamp("customer", "email = 'new@example.com'", "id = 1"))[0][:4] == (
        "L-1",
        "2",
        "e-mail",
        "1.00",
    )
    assert [row[:3] for row in after("delete from customer where id in (2, 4)")] == [
        # By name and country then: Ana is still there.
        ("L-1", "1", "name and country"), ("L-2", "", "none"), ("L-3", "", "none"), ("L-4", "3", "name and country"),
    ]  # fmt: skip
    # A version of the customer that begins before the lead was created is the one that it names.
    feeds.shop.do("update customer set state = 'Jujuy', updated_at = '2024-02-01' where id = 1")
    feeds.shop.capture()
    feeds.leads.run()
    assert feeds.leads.rows(
        "select state from dwh.fact_lead inner join dwh.dim_customer using (customer_key) where lead_id = 'L-1'"
    ) == [("Jujuy",)]


@pytest.mark.parametrize("is_shop_first", [pytest.param(True, marks=pytest.mark.slow), False])
def test_an_order_that_the_shop_has_too_converts_the_lead_that_the_partner_names(
    feeds: Feeds, is_shop_first: bool
) -> None:
    feeds.shop.without_foreign_keys()

    def load_shop() -> None:
        feeds.shop.order(7, "2024-03-05", {}, {})
        feeds.shop.capture()

    def load_partner() -> None:
        feeds.orders.land("7.json", [an_order("7", {}, {}, lead_id="L-2"), an_order("8", lead_id="L-3")])
        feeds.orders.run()

    arrive_leads(feeds)
    feeds.shop.open_shop()
    feeds.shop.capture()
    for load in (load_shop, load_partner) if is_shop_first else (load_partner, load_shop):
        load()
        feeds.leads.run()
    assert feeds.leads.rows(
        "select source_system, order_id, lead_id from dwh.fact_order_item order by order_id, line_id"
    ) == [("shop", "7", None), ("shop", "7", None), ("orders", "8", "L-3")]
    conversions = [(row[0], *row[4:7]) for row in feeds.facts()]
    assert conversions[1:3] == [("L-2", "named", "shop", "7"), ("L-3", "named", "orders", "8")]

    def after(*statements: str) -> list[tuple[Any, ...]]:
        feeds.shop.do(*statements)
        feeds.shop.capture()
        feeds.orders.run()
        feeds.leads.run()
        return [(row[0], *row[4:7]) for row in feeds.facts()][1:3]

    # It is cancelled as the shop has it; and where the shop has it no more, it is the partner's.
    cancelled = "update order_item set status = 'cancelled', updated_at = now() where sales_order_id = 7"
    assert after(cancelled)[0] == ("L-2", None, None, None)
    assert after(
        "delete from order_item where sales_order_id = 7", "delete from sales_order where id = 7"
    ) == [("L-2", "named", "orders", "7"), ("L-3", "named", "orders", "8")]
    # A later version of the order names another lead, or none.
    feeds.orders.land("again.json", [an_order("7", lead_id="L-4"), an_order("8")])
    feeds.orders.run()
    feeds.leads.run()
    assert [(row[0], *row[4:7]) for row in feeds.facts()][1:] == [
        ("L-2", None, None, None), ("L-3", None, None, None), ("L-4", "named", "orders", "7")
    ]  # fmt: skip
    with start_run(feeds.leads.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, feeds.leads.source, repair=False)
        verdicts += reconcile_feed(run, feeds.orders.source, repair=False)
    assert [str(verdict) for verdict in verdicts if verdict.verdict == "different"] == []


def test_undo_takes_back_what_leads_have_followed(feeds: Feeds) -> None:
    feeds.shop.without_foreign_keys()
    arrive_leads(feeds)
    feeds.shop.open_shop()
    feeds.shop.capture()
    before = feeds.facts()
    run_id = feeds.leads.run()
    matched = feeds.facts()
    assert (before[0][1], matched[0][1]) == ("", "1")
    with start_run(feeds.leads.warehouse_url, flow="undo") as run:
        undo(run, run_id)
    assert feeds.facts() == before
    feeds.leads.run()
    assert feeds.facts() == matched


def test_leads_know_again_what_a_pruned_change_log_no_longer_holds(feeds: Feeds) -> None:
    feeds.shop.without_foreign_keys()
    for event in EVENTS:
        event(feeds)
    feeds.shop.do(
        "update customer set email = 'new@example.com', name = 'Anne', updated_at = now() where id = 1"
    )
    run_id = feeds.shop.capture().run_id
    with feeds.leads.warehouse.transaction():
        feeds.leads.warehouse.execute("delete from audit.change where run_id = %s", [run_id])
        feeds.leads.warehouse.execute("update audit.run set pruned_at = now() where run_id = %s", [run_id])
    feeds.leads.run()
    assert feeds.facts()[0] == ("L-1", "", "none", None, None, None, None, 0)


def test_a_lead_that_waits_is_in_no_table_of_the_star(feeds: Feeds) -> None:
    arrive_leads(feeds)
    before = content(feeds.leads.warehouse, ("dwh",))
    feeds.leads.land("b.csv", f"{HEADER}L-1,New name,,,,,fair,soon\nL-7,Eve,,,,,fair,\n")
    feeds.leads.land("c.csv", f"{HEADER}L-8,Ada,,,,,fair,2150-01-01\nL-2,Far away,,,,,fair,1899-12-31\n")
    feeds.leads.run()
    assert content(feeds.leads.warehouse, ("dwh",)) == before
    missing, outside = "creation time is missing", "creation time is outside the calendar"
    assert sorted(feeds.leads.waiting()) == [
        ("L-1", missing),
        ("L-2", outside),
        ("L-7", missing),
        ("L-8", outside),
    ]
