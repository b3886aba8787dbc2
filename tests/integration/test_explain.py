"""Explain: a row is told down to the source, with the reason for each version, and the rules that judged it."""

import pytest

from tests.pipeline import Pipeline
from warehouse.errors import SettingsError
from warehouse.explain.explain import explain
from warehouse.explain.node import Node, UnknownRow


def ask(shop: Pipeline, table: str, *key: str, at_source: bool = True) -> Node:
    readers = {"shop": shop.shop} if at_source else {}
    (node,) = explain(shop.warehouse, [shop.source], table, key, readers=readers)
    return node


def titles(node: Node) -> list[str]:
    return [child.title for child in node.children]


def told(node: Node, begins: str) -> Node:
    """The one child whose title begins so."""
    (child,) = [child for child in node.children if child.title.startswith(begins)]
    return child


@pytest.fixture
def lived(shop: Pipeline) -> Pipeline:
    """A customer who moved after ordering, a line in quarantine, a product that vanished."""
    shop.order(1, "2024-03-10", {}, {"quantity": 0})
    shop.capture()
    shop.do("update customer set country = 'UY', updated_at = '2024-05-01' where id = 1")
    shop.order(2, "2024-06-01")
    shop.capture()
    shop.without_foreign_keys()
    shop.do("delete from product where id = 1")
    shop.capture()
    return shop


def test_fact_is_explained_by_the_versions_of_its_day_down_to_the_source(lived: Pipeline) -> None:
    node = ask(lived, "order_item", "1", "1")
    assert node.title == "dwh.fact_order_item order_id 1, line_id 1 of shop"
    assert node.facts["net_amount"] == "190.0000"
    assert str(node.facts["written by"]).startswith("run 1 (ingest-shop, 20")
    customer = told(node, "customer 1")
    assert (customer.facts["country"], customer.facts["valid"]) == (
        "AR",
        "from the beginning to 2024-05-01 00:00:00+00",
    )
    assert customer.facts["why"] == "it was valid at ordered_at 2024-03-10 00:00:00+00, one of 2 versions"
    assert told(ask(lived, "fact_order_item", "2:1"), "customer 1").facts["country"] == "UY"
    assert told(node, "promotion: unknown").facts["why"] == "it refers to no promotion"
    assert str(told(node, "company 1").facts["why"]).endswith("; reached through the product")
    line = told(node, "raw.shop_order_item sales_order_id 1, line_number 1: mirror of public.order_item")
    assert line.facts["quantity"] == "2" and "source and mirror equal" in str(line.facts["snapshot"])
    (at_source,) = line.children
    ((xid,),) = lived.shop.execute(
        "select xmin::text from order_item where sales_order_id = 1 and line_number = 1"
    )
    assert at_source.facts == {"transaction (xmin)": xid, "state": "as it is mirrored"}
    assert told(node, "raw.shop_sales_order id 1").facts["customer_id"] == "1"
    (rules,) = told(node, "conform/order_item.sql of shop").children
    assert rules.title.startswith("checks/order_item.yml: 0 of ") and set(rules.facts.values()) == {"kept"}
    lived.do("update order_item set discount_amount = 20 where sales_order_id = 1 and line_number = 1")
    (changed,) = told(ask(lived, "order_item", "1", "1"), "raw.shop_order_item").children
    assert (changed.facts["state"], changed.facts["discount_amount"]) == (
        "it has changed since it was captured", "10.00 → 20.00",
    )  # fmt: skip


def test_member_is_explained_by_its_versions(lived: Pipeline) -> None:
    node = ask(lived, "customer", "1", at_source=False)
    assert node.facts == {"state": "in the source", "versions": 2}
    first, second = node.children[:2]
    assert (first.facts["began"], first.facts["facts that refer to it"]) == (
        "the first known version: valid from the beginning", "1 of order_item, 0 of order_lead, 0 of lead_conversion",
    )  # fmt: skip
    assert str(first.facts["ended"]).startswith("it changed, found by run 2 (ingest-shop, ")
    assert (second.facts["began"], second.facts["ended"]) == ("it changed: country was AR", "not yet")
    change = told(node, "update of dwh.dim_customer")
    assert change.facts["is_current"] == "true → false" and str(change.facts["by"]).startswith("run 2 (")
    product = ask(lived, "dwh.dim_product", "1")
    assert product.facts["state"] == "deleted from the source"
    assert str(product.children[0].facts["ended"]).startswith(
        "it was deleted from the source, found by run 3 ("
    )
    assert told(product, "raw.shop_product id 1").facts["state"] == "deleted from the source"
    assert told(product, "raw.shop_product id 1").children[0].facts == {"state": "not there"}


def test_row_in_quarantine_and_one_that_somebody_changed_by_hand_are_explained(lived: Pipeline) -> None:
    node = ask(lived, "order_item", "1", "2")
    assert node.title == "dwh.fact_order_item order_id 1, line_id 2 of shop: not published"
    assert titles(node)[-2:] == ["audit.quarantine 1: replaced", "audit.quarantine 2: waits"]
    assert "quantity is not positive" in str(node.children[-1].facts["rules broken"])
    (rules,) = told(node, "conform/order_item.sql").children
    assert rules.facts["quantity is not positive"] == "broken"
    lived.warehouse.execute(
        "update dwh.fact_order_item set net_amount = 0, customer_key = -7 where order_id = '2'"
    )
    forged = ask(lived, "order_item", "2", "1")
    assert "the row is damaged" in str(told(forged, "customer: there is no version -7").facts["why"])
    change = told(forged, "update of dwh.fact_order_item")
    assert change.facts["by"] == f"hand, as {lived.warehouse.info.user}"
    assert change.facts["net_amount"] == "190.0000 → 0.0000"


NOT_THERE = [
    (("customer", "11"), "No source has or had customer '11'", "There are, for instance: 1."),
    (
        ("customer", "abc'; drop table dwh.dim_customer; --"),
        "No source has or had customer",
        "There are, for",
    ),
    (
        ("order_item", "1"),
        "A key of order_item is (order_id, line_id), not '1'.",
        "Give 2, in this order",
    ),
    (
        ("custommer", "1"),
        "There is no table 'custommer' that could be explained.",
        "Did you mean customer",
    ),
    (
        ("raw.shop_customer", "x"),
        "No source has or had raw.shop_customer 'x'",
        "There are, for instance: 1.",
    ),
    (('zzz%s{}"', "1"), "There is no table", "There are: company, customer"),
]


def test_error_about_an_unknown_row_names_what_may_be_meant(lived: Pipeline) -> None:
    for asked, said, advice in NOT_THERE:
        with pytest.raises(SettingsError) as error:
            ask(lived, *asked)
        assert error.value.what.startswith(said) and error.value.hint.startswith(advice)
        assert isinstance(error.value, UnknownRow) == said.startswith("No source")
    assert len(lived.versions("customer")) == 2
