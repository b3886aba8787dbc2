"""Quarantine: each rule of checks/order_item.yml bites from the shop on; what is mended comes back."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from cli.diagnostics import Finding, relaxed_findings
from tests.integration.test_refused_rows import differences
from tests.pipeline import STAMP, USUAL, Pipeline
from warehouse.errors import DeclarationError
from warehouse.explain.explain import explain
from warehouse.sources.registry import read_source
from warehouse.sources.source import Source

# A second line that keeps the order's total high whatever is wrong with the first.
GOOD: Mapping[str, object] = {"quantity": 50}


@dataclass(frozen=True)
class Broken:
    """What is broken about an order of one line, or of two where it is not `alone`, or about its line."""

    rule: str
    line: Mapping[str, object] = field(default_factory=dict)
    order: Mapping[str, object] = field(default_factory=dict)
    alone: bool = False


LENIENT = [
    f"alter table order_item alter {column} drop not null"
    for column in ("quantity", "discount_amount", "created_at")
] + [
    f"alter table order_item alter {column} type numeric"
    for column in ("quantity", "unit_price", "unit_price_default", "discount_amount")
]
BROKEN = [
    Broken("product id is missing", {"product_id": None}),
    Broken("status is missing", {"status": None}),
    Broken("quantity is missing", {"quantity": None}),
    Broken("unit price is missing", {"unit_price": None}),
    Broken("discount is missing", {"discount_amount": None}),
    Broken("record timestamp is missing", {"created_at": None, "updated_at": None}),
    Broken("status is unknown", {"status": "lost"}),
    Broken("quantity is not positive", {"quantity": 0, "discount_amount": 0}),
    Broken("unit price is not positive", {"unit_price": 0, "unit_price_default": None, "discount_amount": 0}),
    Broken("unit price is not a number", {"unit_price": "NaN"}),
    Broken("base price is not positive", {"unit_price_default": 0}),
    Broken("unit price is not above the base price", {"unit_price_default": 100}),
    Broken("discount is not between 0 and the gross amount", {"discount_amount": -1}),
    Broken("discount is not between 0 and the gross amount", {"discount_amount": 201}),
    Broken("amounts are too large", {"quantity": 2_000_000_000, "unit_price": 900_000}),
    Broken("amounts are too large", {"unit_price": "Infinity"}),
    Broken("amounts are too large", {"unit_price": "3.4e38"}),
    Broken("amounts are too large", {"unit_price": "2e14", "quantity": "0.001"}),
    Broken("amounts are too large", {"unit_price": "99304865938430.9831", "quantity": "1.007"}),
    Broken("amounts are too large", {"quantity": "Infinity"}),
    Broken("amounts are too large", {"quantity": "1e40"}),
    Broken("quantity is not positive", {"quantity": "NaN"}),
    Broken("base price is not positive", {"unit_price_default": "-Infinity"}),
    Broken("discount is not between 0 and the gross amount", {"discount_amount": "-Infinity"}),
    Broken("discount is not between 0 and the gross amount", {"discount_amount": "NaN"}),
    Broken("return time is outside the calendar", {"returned_at": "infinity"}),
    Broken("return time is outside the calendar", {"returned_at": "0044-03-15 BC"}),
    Broken("order total is not positive", {"unit_price_default": None, "discount_amount": 200}, alone=True),
    Broken(
        "order total is not above the line's base price", {"quantity": 1, "discount_amount": 20}, alone=True
    ),
    Broken("order time is missing", order={"ordered_at": None}, alone=True),
    Broken("order time is outside the calendar", order={"ordered_at": "1899-12-31"}, alone=True),
    Broken("order time is outside the calendar", order={"ordered_at": "infinity"}, alone=True),
]


def mend(shop: Pipeline, table: str, where: str, broken: Mapping[str, object]) -> None:
    for column in broken:
        usual = {**STAMP, **USUAL[table]}.get(column)
        shop.shop.execute(f"update {table} set {column} = %s where {where}".encode(), [usual])


def test_broken_lines_wait_in_quarantine_under_their_rule_until_they_are_corrected(shop: Pipeline) -> None:
    shop.do(*LENIENT)
    for number, broken in enumerate(BROKEN, start=1):
        shop.insert("sales_order", id=number, **broken.order)
        for line, values in enumerate([broken.line] if broken.alone else [broken.line, GOOD], start=1):
            shop.insert("order_item", sales_order_id=number, line_number=line, **values)
    run = shop.capture()
    waiting = [([str(number), "1"], [broken.rule], None) for number, broken in enumerate(BROKEN, start=1)]
    good = {(str(number), "2") for number, broken in enumerate(BROKEN, start=1) if not broken.alone}
    assert sorted(shop.quarantined(), key=lambda entry: int(entry[0][0])) == waiting
    assert set(shop.facts()) == good
    assert run.loads["dwh.fact_order_item"].rows_quarantined == len(BROKEN)
    counted = {
        check.check_name: int(check.measured or 0) for check in run.checks if check.outcome == "failed"
    }
    assert counted == Counter(broken.rule for broken in BROKEN)
    assert {check.level for check in run.checks if check.outcome == "failed"} == {"quarantine"}

    # judged again since something else changed, and as bad as before: not quarantined twice
    shop.do("update brand set name = 'Nut'")
    assert shop.capture().changes() == {
        "raw.shop_brand": {"updated": 1},
        "dwh.dim_product": {"read": 1, "inserted": 1, "expired": 1},
    }
    assert sorted(shop.quarantined(), key=lambda entry: int(entry[0][0])) == waiting

    for number, broken in enumerate(BROKEN, start=1):
        mend(shop, "sales_order", f"id = {number}", broken.order)
        mend(shop, "order_item", f"sales_order_id = {number} and line_number = 1", broken.line)
    shop.capture()
    assert {resolution for _, _, resolution in shop.quarantined()} == {"released"}
    assert set(shop.facts()) == good | {(str(number), "1") for number in range(1, len(BROKEN) + 1)}


def test_every_row_rule_that_a_shop_can_break_is_among_these() -> None:
    from warehouse.model.contracts import read_contract

    contract = read_contract("order_item")
    keys = {"order id is missing", "line id is missing"}  # a row without its key is refused before
    totals = {"order total is missing"}  # only where the unit price is missing as well
    assert {rule.name for rule in contract.row_rules} == {broken.rule for broken in BROKEN} | keys | totals


def test_line_that_breaks_many_rules_names_them_all(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"unit_price": None, "status": "lost", "product_id": None})
    shop.capture()
    assert shop.rows(
        "select row_key, rules, reason, source, entity, run_id, row_data ->> 'status' from audit.quarantine"
    ) == [
        (
            ["1", "1"],
            ["product id is missing", "unit price is missing", "order total is missing", "status is unknown"],
            "product id is missing; unit price is missing; order total is missing; status is unknown",
            "shop",
            "order_item",
            1,
            "lost",
        )
    ]


def test_order_with_a_line_that_is_no_number_has_the_total_of_its_other_lines(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"unit_price": "NaN", "unit_price_default": None, "discount_amount": 0}, {})
    shop.order(2, "2024-03-10", {"unit_price": "NaN", "unit_price_default": None, "discount_amount": 0})
    shop.capture()
    totals = "select order_id, line_id, order_total_price::text from mart.orders order by 1, 2"
    assert [(order, line, float(total)) for order, line, total in shop.rows(totals)] == [("1", "2", 190)]
    assert [key for key, *_ in shop.quarantined()] == [["1", "1"], ["2", "1"]]
    assert all("unit price is not a number" in rules for _, rules, _ in shop.quarantined())
    # As a fact has it that was loaded before the column was there.
    shop.warehouse.execute("update dwh.fact_order_item set order_total_amount = null")
    assert [float(total) for *_, total in shop.rows(totals)] == [190]


def test_line_that_is_broken_in_another_way_replaces_its_entry(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"status": "lost"})
    shop.capture()
    shop.do("update order_item set status = null")
    run = shop.capture()
    assert shop.quarantined() == [
        (["1", "1"], ["status is unknown"], "replaced"),
        (["1", "1"], ["status is missing"], None),
    ]
    assert run.loads["dwh.fact_order_item"].rows_quarantined == 1


def test_quarantined_rows_are_checked_again_when_what_they_read_changes_and_once_a_day(
    shop: Pipeline,
) -> None:
    shop.order(1, "2024-03-10", {"status": "lost"}, GOOD)
    shop.order(2, "2024-03-10", {"status": "lost"}, GOOD)
    shop.insert("customer", id=7)
    shop.insert("customer", id=8, name=" ")
    shop.capture()

    def checked() -> dict[str, int]:
        run = shop.capture()
        return {
            table: load.rows_read for table, load in run.loads.items() if table in ("dwh.dim_customer", FACT)
        }

    FACT = "dwh.fact_order_item"
    assert checked() == {}
    shop.do("update customer set state = 'Jujuy' where id = 7")
    assert checked() == {"dwh.dim_customer": 1}
    # The other line of the order is part of its total.
    shop.do("update order_item set quantity = 60 where sales_order_id = 1 and line_number = 2")
    assert checked() == {FACT: 2}
    shop.warehouse.execute("update audit.watermark set captured_at = captured_at - interval '1 day'")
    assert checked() == {"dwh.dim_customer": 1, FACT: 2}
    assert checked() == {}
    # Of the line whose order's total is another, the entry shows that.
    assert [entry[2] for entry in shop.quarantined()] == [None, "replaced", None, None]


def test_quarantined_line_that_is_deleted_is_done_with(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"status": "lost"}, GOOD)
    shop.capture()
    shop.do("delete from order_item where line_number = 1")
    shop.capture()
    assert shop.quarantined() == [(["1", "1"], ["status is unknown"], "deleted")]
    assert shop.facts() == [("1", "2")]


def test_published_line_that_goes_bad_keeps_its_last_good_state_until_it_is_corrected(sale: Pipeline) -> None:
    sale.do("update order_item set quantity = 0")
    sale.capture()
    assert sale.facts("fact.quantity::int") == [("1", "1", 2)]
    assert [(entry[0], entry[2]) for entry in sale.quarantined()] == [(["1", "1"], None)]
    sale.do("update order_item set quantity = 5")
    sale.capture()
    assert sale.facts("fact.quantity::int") == [("1", "1", 5)]
    assert [entry[2] for entry in sale.quarantined()] == ["released"]


def test_published_line_that_goes_bad_and_is_deleted_leaves_the_facts(sale: Pipeline) -> None:
    sale.do("update order_item set status = 'lost'")
    sale.capture()
    sale.do("delete from order_item")
    sale.capture()
    assert sale.facts() == []
    assert [entry[2] for entry in sale.quarantined()] == ["deleted"]


@pytest.mark.parametrize(
    "ending", ["corrected", pytest.param("deleted", marks=pytest.mark.slow), "the order is deleted"]
)
def test_lines_of_an_order_are_judged_together_whichever_of_them_changes(shop: Pipeline, ending: str) -> None:
    shop.without_foreign_keys()
    for number in (1, 2):
        shop.order(number, "2024-03-10", {}, {"quantity": 3})
    shop.capture()
    published = [(str(order), str(line)) for order in (1, 2) for line in (1, 2)]
    shop.insert(
        "order_item", line_number=3, unit_price=-500, unit_price_default=-600, quantity=1, discount_amount=0
    )
    run = shop.capture()
    total = "order total is not positive"
    below = "order total is not above the line's base price"
    assert sorted(shop.quarantined()) == [
        (["1", "1"], [total, below], None),
        (["1", "2"], [total, below], None),
        (["1", "3"], [total, "base price is not positive", "unit price is not positive",
                      "discount is not between 0 and the gross amount"], None),
    ]  # fmt: skip
    assert run.counts("dwh.fact_order_item") == {"read": 3, "quarantined": 3}
    assert shop.facts() == published
    # nothing of the other order was judged again, and nothing is judged twice
    assert shop.capture().changes() == {}
    if ending == "corrected":
        shop.do("update order_item set unit_price = 5, unit_price_default = 4 where line_number = 3")
        published.insert(2, ("1", "3"))
    elif ending == "deleted":
        shop.do("delete from order_item where line_number = 3")
    else:
        shop.do("delete from sales_order where id = 1")
    shop.capture()
    if ending == "the order is deleted":
        assert {
            (tuple(key), rules[0]) for key, rules, resolution in shop.quarantined() if resolution is None
        } == {(("1", line), "order time is missing") for line in ("1", "2", "3")}
    else:
        assert {resolution for *_, resolution in shop.quarantined()} == {"released"} | (
            {"deleted"} if ending == "deleted" else set()
        )
    assert shop.facts() == published


def test_line_that_reappears_broken_is_quarantined_anew(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"status": "lost"})
    shop.capture()
    shop.do("delete from order_item")
    shop.capture()
    shop.insert("order_item", status="lost")
    shop.capture()
    assert shop.quarantined() == [
        (["1", "1"], ["status is unknown"], "deleted"),
        (["1", "1"], ["status is unknown"], None),
    ]


def test_source_is_mirror_and_star_is_mirror_less_quarantine(shop: Pipeline) -> None:
    for number in range(1, 31):
        shop.order(
            number,
            "2024-03-10",
            {"status": "lost" if number % 7 == 0 else "complete"},
            {"quantity": number % 5},
        )
    shop.capture()
    ((mirrored, published, waiting),) = shop.rows(
        "select (select count(*) from raw.shop_order_item where not _is_deleted), "
        "(select count(*) from dwh.fact_order_item), (select count(*) from audit.quarantine where resolved_at is null)"
    )
    assert (mirrored, published, waiting) == (60, 50, 10)


def test_fact_whose_line_waits_names_the_versions_that_hold_at_its_event(shop: Pipeline) -> None:
    shop.order(1, "2024-07-10")
    shop.order(2, "2024-07-12")
    shop.capture()
    shop.do("update order_item set status = 'lost', quantity = 9 where sales_order_id = 1")
    shop.capture()
    assert shop.quarantined() == [(["1", "1"], ["status is unknown"], None)]
    shop.do(
        "update customer set country = 'UY', updated_at = '2024-05-01'",
        "update company set country = 'UY', updated_at = '2024-05-01'",
        "update product set price = 101, updated_at = '2024-07-11'",
    )
    run = shop.capture()
    assert shop.facts("customer.country", "product.price_amount", "company.country", "quantity") == [
        ("1", "1", "UY", 100, "UY", 2),
        ("2", "1", "UY", 101, "UY", 2),
    ]
    assert run.changes()["dwh.fact_order_item"] == {"read": 2, "updated": 2, "rekeyed": 2}


def test_member_of_a_waiting_fact_that_left_before_its_event_is_inferred(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.insert("customer", id=2, name="Bob")
    shop.insert("company", id=2)
    shop.insert("product", id=2, company_id=2)
    shop.order(1, "2099-07-10", {"product_id": 2}, customer_id=2)
    shop.capture()
    shop.do("update order_item set status = 'lost'")
    shop.capture()
    shop.do("delete from customer where id = 2", "delete from company where id = 2")
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred")[1:] == [
        ("2", "Bob", False, "ever", "run 3"),
        ("2", None, True, "run 3", "now"),
    ]
    assert shop.facts(
        "customer.customer_id", "customer.is_inferred", "product.product_id", "company.company_id"
    ) == [("1", "1", "2", True, "2", "")]


# --- rules that a source relaxes ----------------------------------------------------------------------------------

GIFTS = "Gifts are sold at price 0."


def relaxing(shop: Pipeline, **rules: str) -> Source:
    """The shop, with rules about order lines that it need not keep."""
    entity = replace(shop.source.entities["order_item"], relaxed_rules=rules)
    return replace(shop.source, entities={**shop.source.entities, "order_item": entity})


def test_rule_that_a_source_relaxes_refuses_none_of_its_rows_and_the_audit_says_why(shop: Pipeline) -> None:
    gift: Mapping[str, object] = {"unit_price": 0, "unit_price_default": None, "discount_amount": 0}
    shop.order(1, "2024-03-10", gift, {"quantity": 50}, {**gift, "status": "lost"})
    shop.capture()
    assert [key for key, *_ in shop.quarantined()] == [["1", "1"], ["1", "3"]]
    source = relaxing(shop, **{"unit price is not positive": GIFTS})
    shop.do("update customer set state = 'Jujuy'")
    run = shop.capture(source=source)
    assert shop.facts("net_amount::integer") == [("1", "1", 0), ("1", "2", 4990)]
    assert shop.quarantined() == [
        (["1", "1"], ["unit price is not positive"], "released"),
        (["1", "3"], ["unit price is not positive", "status is unknown"], "replaced"),
        (["1", "3"], ["status is unknown"], None),
    ]
    # what the lines are made by has changed: they are judged as a whole, and those that wait once more
    assert {
        (check.check_name, check.level, check.measured, check.message)
        for check in run.checks
        if check.outcome == "relaxed"
    } >= {("unit price is not positive", "warn", 2, GIFTS)}
    assert shop.rows(
        "select source, dataset, check_name, outcome, message from mart.data_quality where outcome = 'relaxed'"
    ) == [("shop", "order_item", "unit price is not positive", "relaxed", GIFTS)]
    assert differences(shop, source=source) == {}
    (node,) = explain(shop.warehouse, [source], "order_item", ["1", "1"])
    assert f"relaxed: {GIFTS}" in str(node)
    # and without it the rule refuses them again
    shop.do("update order_item set quantity = quantity + 1")
    shop.capture()
    assert shop.marked() == [("fact_order_item", ["1", "1"])]


def test_relaxed_rule_that_is_unknown_stops_the_run_before_anything_is_read(shop: Pipeline) -> None:
    source = relaxing(shop, **{"unit price is positive": GIFTS})
    with pytest.raises(DeclarationError, match="does not have is relaxed") as error:
        shop.capture(source=source, shop_url="postgresql://127.0.0.1:1/is_not_even_asked")
    assert error.value.hint == "Did you mean 'unit price is not positive'?"


def test_doctor_shows_relaxed_rules_with_their_reason() -> None:
    source = read_source("shop")
    entity = replace(source.entities["order_item"], relaxed_rules={"unit price is not positive": GIFTS})
    assert list(relaxed_findings("source shop", entity)) == [
        Finding("source shop", "note", f"Rule 'unit price is not positive' of order_item is relaxed: {GIFTS}")
    ]
    unknown = replace(entity, relaxed_rules={"nonsense": GIFTS})
    assert [
        (found.verdict, "'nonsense'" in found.what) for found in relaxed_findings("source shop", unknown)
    ] == [("wrong", True)]
