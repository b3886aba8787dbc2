"""Rows that are refused: no sale is lost, published members keep their versions, and a correction is taken over."""

from dataclasses import replace
from datetime import date

import pytest

from tests.integration.test_dry_run import dry_run
from tests.integration.test_undo import everything, take_back
from tests.pipeline import Pipeline, Row, content
from warehouse.errors import SourceError
from warehouse.explain.explain import explain
from warehouse.load import conform, conversion
from warehouse.load.replace_day import rederive
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.source import Source

WAITING = "select entity, row_key, rules, resolution from audit.quarantine order by quarantine_id"
ANY_PRICE = "alter table product alter price type numeric"


def products(shop: Pipeline) -> list[Row]:
    return shop.versions("product", "name", "price_amount", "is_inferred")


def differences(shop: Pipeline, *, source: Source | None = None, repair: bool = False) -> dict[str, int]:
    """What a reconcile finds, stored marts aside."""
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, source or shop.source, shop.shop_url, repair=repair)
    return {
        one.table_name: one.rows_differing for one in verdicts if one.rows_differing and one.layer != "mart"
    }


def test_member_that_is_refused_when_it_is_new_is_inferred_and_filled_when_it_is_corrected(
    shop: Pipeline,
) -> None:
    shop.insert("product", id=2, price=-5, name="Saw")
    shop.insert("promotion", id=2, discount_share=2)
    shop.order(1, "2024-05-10", {"product_id": 2, "promotion_id": 2}, {})
    shop.capture()
    assert shop.rows(WAITING) == [
        ("product", ["2"], ["price is negative"], None),
        ("promotion", ["2"], ["discount share is not between 0 and 1"], None),
    ]
    columns = ("product.product_id", "product.is_inferred", "promotion.promotion_id", "promotion.is_inferred")
    assert shop.facts(*columns) == [("1", "1", "2", True, "2", True), ("1", "2", "1", False, "", False)]
    assert products(shop) == [
        ("1", "Hammer", 100, False, "ever", "now"),
        ("2", None, None, True, "ever", "now"),
    ]
    keys = shop.facts("fact.product_key", "fact.promotion_key")
    assert differences(shop) == {}
    # what a line takes from the refused row follows it
    assert shop.facts("fact.currency") == [("1", "1", "USD"), ("1", "2", "USD")]
    shop.do("update product set currency = 'EUR' where id = 2")
    shop.capture()
    assert shop.facts("fact.currency") == [("1", "1", "EUR"), ("1", "2", "USD")]
    assert differences(shop) == {}

    shop.do(
        "update product set price = 5 where id = 2", "update promotion set discount_share = 0.2 where id = 2"
    )
    shop.capture()
    assert [resolution for *_, resolution in shop.rows(WAITING)] == ["replaced", "released", "released"]
    assert products(shop)[1] == ("2", "Saw", 5, False, "ever", "now")
    assert shop.rows(
        "select name, discount_share::text, is_inferred from dwh.dim_promotion where promotion_key > 0"
    ) == [("May", "0.2000", False)]
    assert shop.facts("fact.product_key", "fact.promotion_key") == keys
    assert differences(shop) == {}


def test_member_that_is_refused_later_keeps_its_version_and_shows_that_a_newer_state_waits(
    shop: Pipeline,
) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    versions = products(shop)
    shop.do("update product set price = -5", "update distribution_center set name = ''")
    shop.capture()
    waiting = [
        ("product", ["1"], ["price is negative"], None),
        ("distribution_center", ["1"], ["name is blank"], None),
    ]
    assert shop.rows(WAITING) == waiting
    assert shop.marked() == [("dim_distribution_center", ["1"]), ("dim_product", ["1"])]
    assert products(shop) == versions
    assert shop.rows("select name from dwh.dim_distribution_center where not is_inferred and name <> ''") == [
        ("Rosario",)
    ]
    for entity in ("product", "distribution_center"):
        (node,) = explain(shop.warehouse, [shop.source], entity, ["1"])
        assert node.facts["state"] == "in the source; its state in the source now is in quarantine"
    assert differences(shop) == {}
    assert shop.rows(
        "select source_system, entity, natural_key, rules from mart.quarantined_row order by 2"
    ) == [
        ("shop", "distribution_center", "1", ["name is blank"]),
        ("shop", "product", "1", ["price is negative"]),
    ]
    # the sale of today names the last good version
    shop.order(2, "2024-07-10")
    shop.capture()
    assert shop.facts("product.price_amount", "product.is_inferred") == [
        ("1", "1", 100, False),
        ("2", "1", 100, False),
    ]
    assert shop.rows(WAITING) == waiting

    shop.do(
        "update product set price = 105, updated_at = '2024-08-01'",
        "update distribution_center set name = 'B'",
    )
    shop.capture()
    assert [resolution for *_, resolution in shop.rows(WAITING)] == ["released", "released"]
    assert products(shop) == [
        ("1", "Hammer", 100, False, "ever", "2024-08-01"),
        ("1", "Hammer", 105, False, "2024-08-01", "now"),
    ]
    assert shop.marked() == []
    (node,) = explain(shop.warehouse, [shop.source], "product", ["1"])
    assert node.facts["state"] == "in the source"
    assert differences(shop) == {}


def test_customer_who_lacks_what_the_contract_asks_keeps_past_sales_and_waits_alone(shop: Pipeline) -> None:
    # By number of a customer: what is missing once it has bought; of another one, ten on, from the beginning.
    lacking = {1: "name", 2: "document_number", 3: "birth_date"}
    rules = {number: f"{column.replace('_', ' ')} is missing" for number, column in lacking.items()}
    for number in lacking:
        if number > 1:
            shop.insert("customer", id=number, document_number=f"2{number}", username=f"u{number}")
        shop.order(number, "2024-03-10", customer_id=number)
    shop.capture()
    shop.do("update order_item set quantity = 3")
    for number, column in lacking.items():
        shop.do(f"update customer set {column} = null, state = 'Jujuy' where id = {number}")
        new = {"id": number + 10, "document_number": f"3{number}", "username": f"n{number}", column: None}
        shop.insert("customer", **new)
        shop.order(number + 10, "2024-03-11", customer_id=number + 10)
    run = shop.capture()
    assert sorted(shop.rows(WAITING)) == sorted(
        ("customer", [str(number + more)], [rule], None) for number, rule in rules.items() for more in (0, 10)
    )
    found = shop.facts("customer.customer_id", "customer.name", "customer.state", "quantity::integer")
    assert sorted(found, key=lambda row: int(row[0])) == [
        *((str(number), "1", str(number), "Ana", "Salta", 3) for number in lacking),
        *((str(number + 10), "1", str(number + 10), None, None, 2) for number in lacking),
    ]
    assert sorted(
        (check.check_name, check.level, check.outcome, int(check.measured or 0))
        for check in run.checks
        if check.dataset == "order_item" and check.outcome != "passed"
    ) == sorted((f"customer {rule}", "warn", "warned", 2) for rule in rules.values())
    assert differences(shop) == {}
    for number, column in lacking.items():
        shop.do(
            f"update customer set {column} = '1990-05-1{number}', updated_at = '2024-08-01' where id = {number}",
            f"update customer set {column} = '1990-06-1{number}', updated_at = '2024-08-01' "
            f"where id = {number + 10}",
        )
    shop.capture()
    assert {resolution for *_, resolution in shop.rows(WAITING)} == {"released"}
    assert sorted(shop.facts("customer.customer_id", "customer.state"), key=lambda row: int(row[0])) == [
        (str(number + more), "1", str(number + more), "Salta") for more in (0, 10) for number in lacking
    ]
    assert sorted(shop.versions("customer", "state")) == sorted(
        row
        for number in lacking
        for row in (
            (str(number), "Salta", "ever", "2024-08-01"),
            (str(number), "Jujuy", "2024-08-01", "now"),
            (str(number + 10), "Salta", "ever", "now"),
        )
    )


def test_refused_member_that_is_deleted_is_done_with(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.insert("product", id=2, price=-5)
    shop.insert("product", id=3, price=-5)
    shop.order(1, "2024-03-10", {"product_id": 2})
    shop.capture()
    shop.do("update product set price = -1 where id = 1")
    shop.capture()
    shop.do("delete from product")
    shop.capture()
    assert shop.rows(WAITING) == [
        ("product", ["2"], ["price is negative"], "deleted"),
        ("product", ["3"], ["price is negative"], "deleted"),
        ("product", ["1"], ["price is negative"], "deleted"),
    ]
    # The source never held product 2 as it was inferred: a warehouse that is loaded only now has the same.
    assert products(shop) == [
        ("1", "Hammer", 100, False, "ever", "run 3"),
        ("2", None, None, True, "ever", "now"),
    ]
    assert shop.facts("product.product_id", "fact.currency") == [("1", "1", "2", None)]
    assert differences(shop) == {}


def test_undo_and_dry_run_treat_refused_members_as_any_other_row(sale: Pipeline) -> None:
    before = everything(sale)
    sale.do("update product set price = -5")
    sale.insert("product", id=2, name=" ")
    dry, found = dry_run(sale)
    assert sorted(
        (one.table_name, one.row_key, one.changes) for one in found if one.operation == "quarantine"
    ) == [
        ("audit.quarantine (product)", ("1",), "price is negative"),
        ("audit.quarantine (product)", ("2",), "name is blank"),
    ]
    assert everything(sale) == before
    run = sale.capture()
    assert run.changes() == dry.changes()
    take_back(sale, run.run_id)
    assert everything(sale) == before
    sale.capture()
    assert sale.rows(WAITING) == [
        ("product", ["1"], ["price is negative"], None),
        ("product", ["2"], ["name is blank"], None),
    ]
    assert products(sale) == [("1", "Hammer", 100, False, "ever", "now")]


def test_reconcile_restores_the_entries_of_refused_members(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    shop.do("update product set price = -5")
    shop.insert("company", id=2, name="")
    shop.capture()
    published = content(shop.warehouse)
    shop.warehouse.execute("delete from audit.quarantine")
    assert differences(shop, repair=True) == {
        "audit.quarantine (company)": 1,
        "audit.quarantine (product)": 1,
    }
    assert content(shop.warehouse) == published
    assert sorted(shop.rows(WAITING)) == [
        ("company", ["2"], ["name is blank"], None),
        ("product", ["1"], ["price is negative"], None),
    ]
    assert differences(shop) == {}


# --- values that cannot be converted, or that the star cannot hold ------------------------------------------------


def converting(source: Source, entity: str, old: str, new: str) -> Source:
    """The source with another expression in an entity's SQL."""
    declared = source.entities[entity]
    assert old in declared.sql
    return replace(
        source, entities={**source.entities, entity: replace(declared, sql=declared.sql.replace(old, new))}
    )


@pytest.mark.parametrize("is_large", [False, True], ids=["few", "many"])
def test_rows_that_cannot_be_converted_wait_and_all_others_are_published(
    shop: Pipeline, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(conform, "PARALLEL_ABOVE", 1)
    shop.do(
        # its trigger compares rows, and JSON has no equality
        "drop trigger tr_product_updated_at on product",
        "alter table product add details json",
        "alter table product alter price type text",
        "alter table promotion add until_date date",
    )
    for number in range(2, 40):
        shop.insert("product", id=number, details='{"brand": "Saws"}', name=f"Saw {number}")
        shop.insert("promotion", id=number, until_date="2024-06-30")
    bad = {
        7: 'details = \'{"brand": "a\\u0000b"}\'',
        8: "price = 'dear'",
        23: "price = '1e20'",
        31: "price = '1e999999'",
        39: "price = '1' || repeat('0', 200000)",
    }
    for number, change in bad.items():
        shop.do(f"update product set {change} where id = {number}")
    shop.do("update promotion set until_date = '300000-01-01' where id = 5")
    source = converting(shop.source, "product", "brand.name as brand", "product.details ->> 'brand' as brand")
    source = converting(
        source, "product", "product.price as price_amount", "product.price::numeric as price_amount"
    )
    source = converting(
        source, "promotion", "promotion.ends_at,", "promotion.until_date::timestamptz as ends_at,"
    )
    waiting = [
        ("product", ["7"], ["does not fit: brand"], None),
        ("product", ["8"], ["does not fit: price_amount"], None),
        ("product", ["23"], ["does not fit: price_amount"], None),
        ("product", ["31"], ["does not fit: price_amount"], None),
        ("product", ["39"], ["does not fit: price_amount"], None),
        ("promotion", ["5"], ["does not fit: ends_at"], None),
    ]
    run = shop.capture(source=source)
    assert sorted(shop.rows(WAITING), key=lambda row: (row[0], int(row[1][0]))) == waiting
    assert run.loads["dwh.dim_product"].rows_quarantined == 5
    assert {key for key, *_ in products(shop)} == {str(n) for n in range(1, 40)} - {str(n) for n in bad}
    assert shop.rows("select count(*)::int from dwh.dim_promotion where promotion_key > 0") == [(37,)]
    assert shop.rows("select reason, row_data ->> 'name' from audit.quarantine where row_key = '{8}'") == [
        ('does not fit: price_amount (invalid input syntax for type numeric: "…")', "Saw 8")
    ]
    assert differences(shop, source=source) == {}
    (node,) = explain(shop.warehouse, [source], "product", ["8"])
    judged = next(child for child in node.children if child.title.startswith("conform/product.sql"))
    assert judged.children[-1].facts == {
        "reason": 'does not fit: price_amount (invalid input syntax for type numeric: "…")'
    }

    # judged again since others changed, and as bad as before
    shop.do("update brand set name = 'Nut'", "update product set name = 'Nail' where id = 2")
    shop.capture(source=source)
    assert sorted(shop.rows(WAITING), key=lambda row: (row[0], int(row[1][0]))) == waiting
    shop.do("update product set price = '5', details = null", "delete from promotion where id = 5")
    shop.capture(source=source)
    assert sorted(
        ((entity, key, resolution) for entity, key, _, resolution in shop.rows(WAITING)),
        key=lambda row: (row[0], int(row[1][0])),
    ) == [("product", [str(n)], "released") for n in bad] + [("promotion", ["5"], "deleted")]
    assert differences(shop, source=source) == {}


def test_day_is_loaded_again_although_a_line_of_it_cannot_be_converted(shop: Pipeline) -> None:
    shop.do("alter table sales_order add ordered text")
    shop.order(1, "2024-03-10", {}, {})
    shop.order(2, "2024-03-10", ordered="soon")
    source = converting(
        shop.source,
        "order_item",
        "sales_order.ordered_at,",
        "coalesce(sales_order.ordered::timestamptz, sales_order.ordered_at) as ordered_at,",
    )
    shop.capture(source=source)
    waiting = [("order_item", ["2", "1"], ["does not fit: ordered_at"], None)]
    assert shop.rows(WAITING) == waiting
    shop.warehouse.execute("delete from dwh.fact_order_item where line_id = '2'")
    with start_run(shop.warehouse_url, flow="backfill") as run:
        rederive(run, source, date(2024, 3, 10))
    assert shop.facts() == [("1", "1"), ("1", "2")]
    assert shop.rows(WAITING) == waiting


def test_conversion_that_fails_for_most_rows_is_wrong_itself(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "MOST_UNCONVERTIBLE", 2)
    for number in range(2, 6):
        shop.insert("product", id=number)
    source = converting(shop.source, "product", "product.name,", "product.name::integer::text as name,")
    with pytest.raises(SourceError, match="More than 2 rows of product of source 'shop' cannot be converted"):
        shop.capture(source=source)
    assert shop.rows("select count(*)::int from dwh.dim_product where product_key > 0") == [(0,)]


def test_key_that_is_too_long_for_an_index_waits(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.do("drop index ix_order_item_product_id", "alter table order_item alter product_id type text")
    long = "select string_agg(md5(n::text), '') from generate_series(1, 100) as n"
    shop.order(1, "2024-03-10", {"product_id": "1"}, {"product_id": "1"})
    shop.do(f"update order_item set product_id = ({long}) where line_number = 2")
    source = converting(
        shop.source, "order_item", "item.product_id = product.id", "item.product_id = product.id::text"
    )
    line = source.entities["order_item"]
    joins = tuple(
        replace(join, condition=join.condition.replace('"id"', '"id"::text'))
        if join.table == "product"
        else join
        for join in line.joins
    )
    source = replace(source, entities={**source.entities, "order_item": replace(line, joins=joins)})
    shop.capture(source=source)
    assert shop.rows(WAITING) == [("order_item", ["1", "2"], ["does not fit: product_id"], None)]
    assert shop.facts("product.product_id") == [("1", "1", "1")]
    assert differences(shop, source=source) == {}
