"""A marketplace: a line may name its seller itself; where it does not, the seller is the product's."""

import pytest

from tests.integration.test_refused_rows import converting, differences
from tests.pipeline import Pipeline
from warehouse.explain.explain import explain

SELLERS = ("company.company_id", "company.name", "company.is_inferred")


@pytest.fixture
def market(shop: Pipeline) -> Pipeline:
    """A shop whose lines may name a seller of their own, and one who sells nothing by product."""
    shop.without_foreign_keys()
    shop.do("alter table order_item add seller_id bigint")
    shop.insert("company", id=2, name="Second Hand")
    shop.source = converting(
        shop.source,
        "order_item",
        "item.product_id::text as product_id,",
        "item.product_id::text as product_id, item.seller_id::text as company_id,",
    )
    return shop


def test_line_that_names_its_seller_has_that_one_and_all_others_their_products(market: Pipeline) -> None:
    market.order(1, "2024-03-10", {}, {"seller_id": 2}, {"seller_id": 3}, {"seller_id": 2, "product_id": 99})
    market.capture()
    assert market.facts(*SELLERS) == [
        ("1", "1", "1", "Acme", False),
        ("1", "2", "2", "Second Hand", False),
        ("1", "3", "3", None, True),
        ("1", "4", "2", "Second Hand", False),
    ]
    assert differences(market) == {}
    keys = market.facts("fact.company_key")
    # the seller comes later, and completes the row that its line has inferred
    market.insert("company", id=3, name="Late")
    market.capture()
    assert market.facts(*SELLERS)[2] == ("1", "3", "3", "Late", False)
    assert market.facts("fact.company_key") == keys
    assert differences(market) == {}


def test_seller_of_a_line_is_the_version_that_held_when_it_was_ordered(market: Pipeline) -> None:
    market.order(1, "2024-03-10", {"seller_id": 2}, {})
    market.order(2, "2024-07-10", {"seller_id": 2}, {})
    market.capture()
    market.do("update company set name = name || ' II', updated_at = '2024-05-01'")
    run = market.capture()
    assert market.facts("company.name") == [
        ("1", "1", "Second Hand"),
        ("1", "2", "Acme"),
        ("2", "1", "Second Hand II"),
        ("2", "2", "Acme II"),
    ]
    assert run.counts("dwh.fact_order_item")["rekeyed"] == 2
    assert differences(market) == {}


def test_line_that_changes_its_seller_or_names_none_any_more_follows(market: Pipeline) -> None:
    market.order(1, "2024-03-10", {"seller_id": 2}, {})
    market.capture()
    market.do("update order_item set seller_id = case when line_number = 2 then 2 end")
    market.capture()
    assert market.facts(*SELLERS) == [("1", "1", "1", "Acme", False), ("1", "2", "2", "Second Hand", False)]
    assert differences(market) == {}


def test_explain_says_how_a_line_came_to_its_seller(market: Pipeline) -> None:
    market.order(1, "2024-03-10", {"seller_id": 2}, {})
    market.capture()

    def why(line: str) -> str:
        (node,) = explain(market.warehouse, [market.source], "order_item", ["1", line])
        (seller,) = [child for child in node.children if child.title.startswith("company")]
        return str(seller.facts["why"])

    assert why("1").endswith("; named by the row itself")
    assert why("2").endswith("; reached through the product")


def test_reconcile_gives_lines_their_sellers_back(market: Pipeline) -> None:
    market.order(1, "2024-03-10", {"seller_id": 2}, {})
    market.capture()
    market.warehouse.execute("update dwh.fact_order_item set company_key = 0")
    market.warehouse.execute("delete from dwh.dim_company where company_id = '2'")
    assert differences(market, repair=True).keys() == {"dwh.dim_company", "dwh.fact_order_item"}
    assert market.facts(*SELLERS) == [("1", "1", "2", "Second Hand", False), ("1", "2", "1", "Acme", False)]
    assert differences(market) == {}


def test_key_of_a_seller_that_is_too_long_for_an_index_waits(market: Pipeline) -> None:
    market.do("alter table order_item alter seller_id type text")
    market.order(1, "2024-03-10", {}, {"seller_id": "x" * 3000})
    market.capture()
    assert market.quarantined() == [(["1", "2"], ["does not fit: company_id"], None)]
    assert market.facts("company.company_id") == [("1", "1", "1")]
