"""Contracts of the dimensions: each rule bites from the shop on, and corrected rows are released."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.pipeline import STAMP, USUAL, Pipeline
from warehouse.db.connections import connect
from warehouse.load.batch import Batch
from warehouse.load.conversion import create_unconvertible
from warehouse.load.quarantine import find_failing
from warehouse.model.contracts import read_contract
from warehouse.model.star import DIMENSIONS, Dimension

LENIENT = [
    f"alter table {table} alter {column} drop not null"
    for table, columns in {
        "company": ("cuit", "name", "country"),
        "customer": ("username", "email", "country", "loyalty_tier"),
        "product": ("name", "price_default", "price", "currency"),
        "promotion": ("name", "discount_share", "starts_at", "ends_at"),
        "payment_method": ("name", "kind"),
        "distribution_center": ("name",),
    }.items()
    for column in columns
] + [
    f"alter table {table} alter {column} type numeric"
    for table, column in (
        ("customer", "latitude"), ("customer", "longitude"), ("distribution_center", "latitude"),
        ("distribution_center", "longitude"), ("product", "price_default"), ("product", "price"),
        ("product", "rating_average"),
        ("promotion", "discount_share"),
    )
]  # fmt: skip
PLACES = [
    ("latitude is not between -90 and 90", {"latitude": "90.000001"}),
    ("latitude is not between -90 and 90", {"latitude": "-91"}),
    ("latitude is not between -90 and 90", {"latitude": "NaN"}),
    ("latitude is not between -90 and 90", {"latitude": "Infinity"}),
    ("longitude is not between -180 and 180", {"longitude": "180.5"}),
    ("longitude is not between -180 and 180", {"longitude": "-1e40"}),
]
COUNTS = {"review_count": 0, "sold_count": 0}
NAMES = [("name is missing", {"name": None}), ("name is blank", {"name": " "})]
# By dimension, the rule that is broken and what breaks it.
BROKEN: Mapping[str, list[tuple[str, Mapping[str, Any]]]] = {
    "company": [
        *NAMES,
        ("tax number is missing", {"cuit": None}),
        ("tax number is blank", {"cuit": ""}),
        ("country is missing", {"country": None}),
        ("country is blank", {"country": "  "}),
    ],
    "customer": [
        *NAMES,
        *PLACES,
        ("document number is missing", {"document_number": None}),
        ("document number is blank", {"document_number": " "}),
        ("birth date is missing", {"birth_date": None}),
        ("user name is missing", {"username": None}),
        ("user name is blank", {"username": ""}),
        ("e-mail address is missing", {"email": None}),
        ("e-mail address has no @", {"email": "ana.example.com"}),
        ("e-mail address has no @", {"email": "@example.com"}),
        ("birth date is not plausible", {"birth_date": "1879-12-31"}),
        ("birth date is not plausible", {"birth_date": "2999-01-01"}),
        ("birth date is not plausible", {"birth_date": "infinity"}),
        ("country is missing", {"country": None}),
        ("country is blank", {"country": ""}),
        ("loyalty tier is missing", {"loyalty_tier": None}),
        ("loyalty tier is unknown", {"loyalty_tier": "Gold"}),
    ],
    "product": [
        *NAMES,
        ("base price is missing", {"price_default": None}),
        ("base price is negative", {"price_default": "-0.01"}),
        ("base price is not finite", {"price_default": "NaN"}),
        ("base price is not finite", {"price_default": "Infinity"}),
        ("price is missing", {"price": None}),
        ("price is negative", {"price": "-0.01"}),
        ("price is not finite", {"price": "NaN"}),
        ("price is not finite", {"price": "Infinity"}),
        ("does not fit: price_amount", {"price": "1e14"}),
        ("does not fit: price_amount", {"price": "99999999999999.99995"}),
        ("does not fit: price_default_amount", {"price_default": "1e40"}),
        ("rating is not between 1 and 5", {"rating_average": "5.01"}),
        ("rating is not between 1 and 5", {"rating_average": "0"}),
        ("rating is not between 1 and 5", {"rating_average": "-1e40"}),
        ("review count is negative", {"review_count": -1}),
        ("sold count is negative", {"sold_count": -1}),
        ("currency is missing", {"currency": None}),
        ("currency is not a code of three letters", {"currency": "usd"}),
        ("currency is not a code of three letters", {"currency": "USDT"}),
    ],
    "promotion": [
        *NAMES,
        ("discount share is missing", {"discount_share": None}),
        ("discount share is not between 0 and 1", {"discount_share": "1.0001"}),
        ("discount share is not between 0 and 1", {"discount_share": "-0.1"}),
        ("discount share is not between 0 and 1", {"discount_share": "NaN"}),
        ("start is missing", {"starts_at": None}),
        ("end is missing", {"ends_at": None}),
        ("end is before the start", {"ends_at": "2024-04-30 23:59:59"}),
    ],
    "payment_method": [
        *NAMES,
        ("kind is missing", {"kind": None}),
        ("kind is unknown", {"kind": "Card"}),
    ],
    "distribution_center": [*NAMES, *PLACES],
}  # fmt: skip
# Just within the rules.
GOOD: Mapping[str, list[Mapping[str, Any]]] = {
    "company": [{}],
    "customer": [
        {"state": None},
        {"latitude": -90, "longitude": 180, "birth_date": "1880-01-01", "loyalty_tier": "platinum"},
    ],
    "product": [
        {"price": 0, "price_default": 0, "brand_id": None, "rating_average": None},
        {"rating_average": 5, "review_count": 1, "sold_count": 0},
        {"price": "99999999999999.99994", "currency": "ARS"},
    ],
    "promotion": [
        {"discount_share": 0, "ends_at": "2024-05-01"},
        {"discount_share": 1, "ends_at": "infinity"},
    ],
    "payment_method": [{"kind": kind} for kind in ("card", "transfer", "wallet", "cash", "instalment")],
    "distribution_center": [{"latitude": None, "longitude": None}, {"latitude": 90, "longitude": -180}],
}  # fmt: skip


def members(shop: Pipeline, entity: str) -> list[str]:
    """Natural keys of the members that the star shows."""
    keys = shop.rows(f"select {entity}_id from dwh.dim_{entity} where {entity}_key > 0 and not is_inferred")
    return sorted((key for (key,) in keys), key=int)


def test_every_rule_bites_and_corrected_rows_are_released(shop: Pipeline) -> None:
    shop.do(*LENIENT)
    waiting, published = [], {}
    for entity, broken in BROKEN.items():
        for number, (rule, values) in enumerate(broken, start=101):
            shop.insert(entity, id=number, **values)
            waiting.append((entity, [str(number)], [rule], None))
        published[entity] = ["1"] if entity != "promotion" else []
        for number, values in enumerate(GOOD[entity], start=201):
            shop.insert(entity, id=number, **values)
            published[entity].append(str(number))
    run = shop.capture()
    query = "select entity, row_key, rules, resolution from audit.quarantine order by quarantine_id"
    assert sorted(shop.rows(query)) == sorted(waiting)
    assert {entity: members(shop, entity) for entity in BROKEN} == published
    for entity, broken in BROKEN.items():
        assert run.loads[f"dwh.dim_{entity}"].rows_quarantined == len(broken)
        found = {
            check.check_name for check in run.checks if check.dataset == entity and check.outcome == "failed"
        }
        assert found == {rule for rule, _ in broken}
        for number, (_, values) in enumerate(broken, start=101):
            for column in values:
                usual = {**STAMP, **COUNTS, **USUAL[entity]}.get(column)
                shop.shop.execute(f"update {entity} set {column} = %s where id = {number}".encode(), [usual])
    shop.capture()
    assert sorted(shop.rows(query)) == sorted((*entry[:3], "released") for entry in waiting)
    for entity, broken in BROKEN.items():
        corrected = [str(number) for number in range(101, 101 + len(broken))]
        assert members(shop, entity) == sorted([*published[entity], *corrected], key=int)


# Leads come from files: their rules are those of the record (see test_leads).
@pytest.mark.parametrize(
    "dimension", [one for one in DIMENSIONS if one.entity in BROKEN], ids=lambda one: one.entity
)
def test_every_rule_is_among_these_and_a_row_without_its_key_breaks_one(
    pipeline: Pipeline, dimension: Dimension
) -> None:
    contract = read_contract(dimension.entity)
    missing_key = f"{dimension.entity.replace('_', ' ')} id is missing"
    broken = {rule for rule, _ in BROKEN[dimension.entity] if not rule.startswith("does not fit")}
    assert {rule.name for rule in contract.row_rules} == broken | {missing_key}
    with connect(pipeline.warehouse_url) as connection:
        connection.execute(
            f"insert into staging.conformed_{dimension.entity} (source_system) values ('shop')".encode()
        )
        batch = Batch(connection, 0, pipeline.source.entities[dimension.entity], dimension)
        create_unconvertible(batch)
        find_failing(batch, contract.row_rules)
        rows = connection.execute("select row_key, rules[1] from pg_temp.failing_rows").fetchall()
        connection.rollback()
    assert rows == [([None], missing_key)]
