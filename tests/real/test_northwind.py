"""Northwind, somebody else's schema, through the whole way: sales agree with the known answers, and a second run
brings exactly what changed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.pipeline import Pipeline, content
from tests.real.northwind_source import csv_folder, load_northwind
from warehouse.explain.explain import explain
from warehouse.load import conform, marts
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source

LARGE, DISCOUNT = "amounts are too large", "discount is not between 0 and the gross amount"
LOW, TOTAL = "unit price is not positive", "order total is not positive"
# By order and line what it becomes, and the rules that this breaks; nothing of infinity is no number.
ABSURD: Mapping[tuple[int, int], tuple[str, list[str]]] = {
    (10260, 41): ("unit_price = 'Infinity', discount = 0.25", [LARGE]),
    (10266, 12): ("unit_price = 3.4e38, discount = 0.05", [LARGE]),
    (10271, 33): ("unit_price = 'Infinity'", [LARGE, DISCOUNT]),
    (10279, 17): ("unit_price = '-Infinity', discount = 0.25", [TOTAL, LOW, DISCOUNT]),
    (10292, 20): ("discount = 1e30", [TOTAL, DISCOUNT]),
    (10295, 56): ("discount = 'Infinity'", [TOTAL, DISCOUNT]),
    (10313, 36): ("unit_price = -3.4e38", [TOTAL, LOW, DISCOUNT]),
    (10317, 1): ("unit_price = 'NaN'", ["unit price is not a number"]),
}

# By country, by net sales.
BEST_CUSTOMERS: Mapping[str, tuple[str, str]] = {
    "Argentina": ("Océano Atlántico Ltda.", "3460.20"),
    "Austria": ("Ernst Handel", "104874.98"),
    "Belgium": ("Suprêmes délices", "24088.78"),
    "Brazil": ("Hanari Carnes", "32841.37"),
    "Canada": ("Mère Paillarde", "28872.19"),
    "Denmark": ("Simons bistro", "16817.10"),
    "Finland": ("Wartian Herkku", "15648.70"),
    "France": ("Bon app'", "21963.25"),
    "Germany": ("QUICK-Stop", "110277.31"),
    "Ireland": ("Hungry Owl All-Night Grocers", "49979.91"),
    "Italy": ("Magazzini Alimentari Riuniti", "7176.22"),
    "Mexico": ("Tortuga Restaurante", "10812.15"),
    "Norway": ("Santé Gourmet", "5735.15"),
    "Poland": ("Wolski  Zajazd", "3531.95"),
    "Portugal": ("Furia Bacalhau e Frutos do Mar", "6427.42"),
    "Spain": ("Godos Cocina Típica", "11446.36"),
    "Sweden": ("Folk och fä HB", "29567.56"),
    "Switzerland": ("Richter Supermarkt", "19343.78"),
    "UK": ("Seven Seas Imports", "16215.33"),
    "USA": ("Save-a-lot Markets", "104361.95"),
    "Venezuela": ("HILARION-Abastos", "22768.76"),
}


@pytest.fixture
def northwind(empty_database_url: Callable[[], str], warehouse_url: str) -> Iterator[Pipeline]:
    """Northwind's own database and an empty warehouse."""
    folder = csv_folder()
    url = empty_database_url()
    load_northwind(url, folder)
    pipeline = Pipeline(url, warehouse_url, read_source("northwind"))
    yield pipeline
    pipeline.close()


def sales(pipeline: Pipeline) -> tuple[Decimal, Decimal]:
    """Sales before and after discount, to the cent, as the mart shows them."""
    row = pipeline.warehouse.execute(
        """
        select round(sum(gross_amount), 2), round(sum(net_amount), 2)
        from mart.sales where source_system = 'northwind'
        """
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.each_major
def test_first_run_brings_every_row_and_the_known_sales(northwind: Pipeline) -> None:
    run = northwind.capture()

    assert {name: counts["inserted"] for name, counts in run.changes().items()} == {
        "raw.northwind_suppliers": 29,
        "raw.northwind_customers": 91,
        "raw.northwind_categories": 8,
        "raw.northwind_products": 77,
        "raw.northwind_orders": 830,
        "raw.northwind_order_details": 2155,
        "dwh.dim_company": 29,
        "dwh.dim_customer": 91,
        "dwh.dim_product": 77,
        "dwh.fact_order_item": 2155,
    }
    assert sales(northwind) == (Decimal("1354458.59"), Decimal("1265793.04"))
    assert {verification.verdict for verification in run.verifications} == {"equal"}
    assert northwind.warehouse.execute("select count(*) from audit.quarantine").fetchone() == (0,)


@pytest.mark.each_major
def test_marts_know_the_best_sellers_and_the_best_customer_of_each_country(northwind: Pipeline) -> None:
    northwind.capture()
    with start_run(northwind.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    ask = northwind.warehouse.execute
    assert ask(
        "select order_count, round(gross_amount, 2), round(net_amount, 2), as_of_date::text from mart.total_sales"
    ).fetchall() == [(830, Decimal("1354458.59"), Decimal("1265793.04"), "1998-05-06")]
    assert ask("select product_name, unit_count::int from mart.top_sellers where product_rank <= 3").fetchall() == [
        ("Camembert Pierrot", 1577), ("Raclette Courdavault", 1496), ("Gorgonzola Telino", 1397)
    ]  # fmt: skip
    assert ask(
        "select name, round(net_amount, 2) from mart.sales_by_product as sales inner join dwh.dim_product as product "
        "using (product_id) order by net_amount desc limit 1"
    ).fetchall() == [("Côte de Blaye", Decimal("141396.74"))]
    best = ask(
        "select distinct on (customer_country) customer_country, customer_name, round(net_amount, 2)::text "
        "from mart.customer_order_totals order by customer_country, net_amount desc"
    ).fetchall()
    assert {country: (name, amount) for country, name, amount in best} == BEST_CUSTOMERS


def test_rules_about_unmapped_columns_of_northwind_are_not_applicable(northwind: Pipeline) -> None:
    run = northwind.capture()

    left_out = {check.check_name for check in run.checks if check.outcome == "not_applicable"}
    assert left_out == {
        "base price is missing",
        "base price is negative",
        "base price is not finite",
        "base price is not positive",
        "birth date is missing",
        "birth date is not plausible",
        "customer birth date is missing",
        "customer document number is missing",
        "document number is blank",
        "document number is missing",
        "e-mail address has no @",
        "e-mail address is missing",
        "latitude is not between -90 and 90",
        "longitude is not between -180 and 180",
        "loyalty tier is missing",
        "loyalty tier is unknown",
        "order total is not above the line's base price",
        "record timestamp is missing",
        "rating is not between 1 and 5",
        "return time is outside the calendar",
        "review count is negative",
        "sold count is negative",
        "tax number is blank",
        "tax number is missing",
        "unit price is not above the base price",
        "user name is blank",
        "user name is missing",
    }
    assert {check.outcome for check in run.checks if check.check_name not in left_out} == {"passed"}


@pytest.mark.each_major
def test_second_run_brings_exactly_what_changed_and_facts_keep_the_version_of_their_day(
    northwind: Pipeline,
) -> None:
    northwind.await_open_transactions()
    northwind.capture()
    northwind.do(
        "update products set unit_price = unit_price * 2 where product_id in (11, 42)",
        "update customers set city = 'Lyon', country = 'Switzerland', region = 'VD' where customer_id = 'VINET'",
        "delete from order_details where order_id = 10248 and product_id = 72",
        "insert into order_details values (10248, 1, 18, 2, 0.25)",
        "insert into orders (order_id, customer_id, order_date) values (20000, 'VINET', '2099-01-01')",
        "insert into order_details values (20000, 11, 42, 1, 0)",
    )

    run = northwind.capture()

    assert run.changes() == {
        "raw.northwind_products": {"updated": 2},
        "raw.northwind_customers": {"updated": 1},
        "raw.northwind_orders": {"inserted": 1},
        "raw.northwind_order_details": {"inserted": 2, "deleted": 1},
        "dwh.dim_customer": {"read": 1, "inserted": 1, "expired": 1},
        "dwh.dim_product": {"read": 2, "inserted": 2, "expired": 2},
        "dwh.fact_order_item": {"read": 5, "inserted": 2, "updated": 2, "deleted": 1},
    }
    # 10248 lost 5 x 34.80 and gained 2 x 18.00 less a quarter; 20000 is 42.00
    assert sales(northwind) == (
        Decimal("1354458.59") - 174 + 36 + 42,
        Decimal("1265793.04") - 174 + 27 + 42,
    )
    countries = northwind.warehouse.execute(
        """
        select fact.order_id, fact.line_id, customer.country, customer.is_current, product.price_amount
        from dwh.fact_order_item as fact
        inner join dwh.dim_customer as customer using (customer_key)
        inner join dwh.dim_product as product using (product_key)
        where fact.order_id in ('10248', '20000') order by fact.order_id, fact.line_id
        """
    ).fetchall()
    assert countries == [
        ("10248", "1", "France", False, Decimal("18")),
        ("10248", "11", "France", False, Decimal("21")),
        ("10248", "42", "France", False, Decimal("14")),
        ("20000", "11", "Switzerland", True, Decimal("42")),
    ]
    assert northwind.capture().changes() == {}


@pytest.mark.each_major
def test_damage_to_somebody_elses_schema_is_found_repaired_and_explained(northwind: Pipeline) -> None:
    northwind.await_open_transactions()
    northwind.capture()
    undisturbed = content(northwind.warehouse)
    northwind.warehouse.execute(
        b"update raw.northwind_products set product_name = 'x' where product_id = 11; "
        b"delete from dwh.dim_customer where customer_id = 'ALFKI'; "
        b"update dwh.fact_order_item set net_amount = net_amount + 0.01 where order_id = '10248' and line_id = '11'"
    )
    with start_run(northwind.warehouse_url, flow="reconcile") as run:
        mended = reconcile_source(run, northwind.source, northwind.shop_url, repair=True)
    differing = {v.table_name: v.verdict for v in mended if v.rows_differing}
    assert set(differing.values()) == {"repaired"}
    assert {name for name in differing if not name.startswith("mart.")} == {
        "products", "dwh.dim_customer", "dwh.fact_order_item",
    }  # fmt: skip
    assert "mart.sales_by_day" in differing
    assert content(northwind.warehouse) == undisturbed
    (line,) = explain(northwind.warehouse, [northwind.source], "order_item", ["10248", "11"])
    assert [child.title.split(":")[0] for child in line.children[:2]] == ["customer VINET", "product 11"]


def test_amounts_that_nothing_can_hold_wait_and_all_others_are_published_as_ever(
    northwind: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Northwind keeps them as real, which holds more than any column of the star; a large batch is made another way."""
    lines = "update order_details set {} where (order_id, product_id) = ({}, {})"
    absurd = [lines.format(change, *key) for key, (change, _) in ABSURD.items()]
    waiting = [([str(order), str(line)], rules, None) for (order, line), (_, rules) in ABSURD.items()]
    northwind.do(*absurd, lines.format("unit_price = 1.00005, discount = 0.33335", 10273, 10))
    with monkeypatch.context() as large:
        large.setattr(conform, "PARALLEL_ABOVE", 1)
        northwind.capture()
    assert sorted(northwind.quarantined()) == waiting
    assert len(northwind.facts()) == 2155 - len(ABSURD)
    # price and discount are each told to the hundredth of a cent before anything is made of them
    assert northwind.rows(
        "select list_unit_price_amount, discount_amount, gross_amount, net_amount from dwh.fact_order_item "
        "where order_id = '10273' and line_id = '10'"
    ) == [tuple(map(Decimal, ("1.0001", "8.0008", "24.0024", "16.0016")))]

    northwind.do(*(lines.format("unit_price = 7, discount = 0", *key) for key in ABSURD))
    northwind.capture()
    assert {resolution for _, _, resolution in northwind.quarantined()} == {"released"}
    northwind.do(*absurd)
    assert northwind.capture().loads["dwh.fact_order_item"].rows_quarantined == len(ABSURD)
    assert sorted(entry for entry in northwind.quarantined() if entry[2] is None) == waiting
    assert len(northwind.facts()) == 2155
    with start_run(northwind.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, northwind.source, northwind.shop_url, repair=False)
    assert {verdict.verdict for verdict in verdicts if verdict.layer != "mart"} == {"equal"}
    (line,) = explain(northwind.warehouse, [northwind.source], "order_item", ["10260", "41"])
    (judged,) = (child for child in line.children if child.title.startswith("conform/"))
    assert judged.facts["unit_price_amount"] == "Infinity"
    assert [name for name, said in judged.children[0].facts.items() if said == "broken"] == [LARGE]


def test_product_with_an_infinite_price_waits_and_no_sale_is_lost(northwind: Pipeline) -> None:
    northwind.do("update products set unit_price = 'Infinity' where product_id = 11")
    northwind.capture()
    assert northwind.quarantined() == [(["11"], ["price is not finite"], None)]
    assert sales(northwind) == (Decimal("1354458.59"), Decimal("1265793.04"))
    inferred = northwind.rows("select product_id, price_amount from dwh.dim_product where is_inferred")
    assert inferred == [("11", None)]

    northwind.do("update products set unit_price = 21 where product_id = 11")
    northwind.do("update products set unit_price = 3.4e38 where product_id = 12")
    northwind.capture()
    assert northwind.quarantined() == [
        (["11"], ["price is not finite"], "released"),
        (["12"], ["does not fit: price_amount"], None),
    ]
    prices = "select product_id, price_amount::text, is_inferred from dwh.dim_product where product_id in ('11', '12')"
    assert sorted(northwind.rows(prices)) == [("11", "21.0000", False), ("12", "38.0000", False)]
    assert sales(northwind) == (Decimal("1354458.59"), Decimal("1265793.04"))
    with start_run(northwind.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, northwind.source, northwind.shop_url, repair=False)
    assert {verdict.verdict for verdict in verdicts if verdict.layer != "mart"} == {"equal"}


def test_prices_in_another_unit_reach_every_line_that_was_loaded(northwind: Pipeline) -> None:
    northwind.capture()
    entity = northwind.source.entities["order_item"]
    in_cents = replace(
        entity,
        sql=entity.sql.replace(
            "round(line.unit_price::numeric,", "round(100 * line.unit_price::numeric,"
        ).replace("round(line.quantity * line.unit_price", "round(100 * line.quantity * line.unit_price"),
    )
    northwind.source = replace(
        northwind.source, entities={**northwind.source.entities, "order_item": in_cents}
    )
    run = northwind.capture()
    assert run.changes() == {"dwh.fact_order_item": {"read": 2155, "updated": 2155}}
    assert run.loads["dwh.fact_order_item"].reconform_reason == "conform SQL has changed"
    assert sales(northwind) == (Decimal("135445859.00"), Decimal("126579303.95"))
    assert northwind.capture().changes() == {}
