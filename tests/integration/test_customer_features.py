"""Features of customers: the same as pandas computes from the raw data, as of any day, by the knowledge of any time."""

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from tests.marts import MartWorld
from tests.pipeline import Pipeline
from warehouse.features.build import FeaturesRefused, build
from warehouse.runs.audit import start_run

COLUMNS = [
    "age", "country", "state", "nearest_distribution_center", "spend_last_year_amount", "profit_level",
    "traffic_source", "order_count", "last_ordered_date", "recency_days", "favourite_category", "device",
]  # fmt: skip


def built(url: str, **options: Any) -> int:
    with start_run(url, flow="build-features") as run:
        (load,) = build(run, currency="USD", **options)
    return load.rows_inserted


def haversine(one: Any, other: Any) -> float:
    a, b, c, d = (
        math.radians(float(each)) for each in (one.latitude, one.longitude, other.latitude, other.longitude)
    )
    chord = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(chord))


def expected(world: MartWorld, as_of: date) -> dict[str, dict[str, Any]]:
    """Features by customer, from the shop's tables and the log files alone."""
    lines = world.raw_lines()
    lines = lines[lines.date <= as_of]
    end = pd.Timestamp(as_of + timedelta(days=1), tz="UTC")
    late = (lines.line_status == "returned") & (lines.returned_at >= end)
    lines["status"] = lines.line_status.where(~late, "complete")
    year_end = as_of.replace(day=1)
    year_start = year_end.replace(year=year_end.year - 1)
    requests = world.raw_requests()
    requests = requests[(requests.date <= as_of) & requests.user.notna()]
    centers = list(world.raw_table("distribution_center").itertuples())
    found = {}
    for customer in world.raw_table("customer").itertuples():
        own = lines[lines.customer_id == customer.id]
        sold = own[own.status != "cancelled"]
        year = own[(own.date >= year_start) & (own.date < year_end)]
        spend = year[year.status == "complete"].net.sum()
        sold_in_year = year[year.status != "cancelled"]
        visits = requests[requests.user == customer.username]
        units: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for line in sold.itertuples():
            units[line.category] += int(line.quantity)
            rows[line.category] += 1
        sources = Counter(zip(visits.medium == "internal", visits.source, visits.medium, strict=True))
        devices = Counter(visits.device)
        distance, center = min((haversine(customer, center), center.name) for center in centers)
        birth = customer.birth_date
        last = sold.date.max() if len(sold) else None
        found[str(customer.id)] = {
            "age": as_of.year - birth.year - ((as_of.month, as_of.day) < (birth.month, birth.day)),
            "country": customer.country,
            "state": customer.state,
            "nearest_distribution_center": center,
            "spend_last_year_amount": spend,
            "profit_level": 1 if spend <= 50 else 2 if spend < 150 else 3,
            "traffic_source": min(sources, key=lambda key: (key[0], -sources[key], key[1:]))[1]
            if sources
            else None,
            "order_count": sold.sales_order_id.nunique(),
            "last_ordered_date": last,
            "recency_days": (as_of - last).days if last else None,
            "favourite_category": min(units, key=lambda key: (-units[key], -rows[key], key))
            if units
            else None,
            "device": min(devices, key=lambda key: (-devices[key], key)) if devices else None,
            "km": round(distance, 3),
            "rate": round((sold_in_year.status == "returned").sum() / len(sold_in_year), 9)
            if len(sold_in_year)
            else None,
        }
    return found


@pytest.mark.parametrize("days_back", [0, 45])
def test_features_are_those_of_the_raw_data(mart_world: MartWorld, days_back: int) -> None:
    newest = mart_world.mart("as_of").as_of_date[0]
    as_of = newest - timedelta(days=days_back)
    options = {"as_of": as_of} if days_back else {}
    assert built(mart_world.warehouse_url, **options) == len(mart_world.raw_table("customer"))
    features = mart_world.mart("customer_feature")
    features = features[features.as_of_date == as_of]
    features = features.astype(object).where(features.notna(), None)
    assert {
        row["customer_id"]: {name: row[name] for name in COLUMNS}
        | {
            "km": float(row["nearest_distribution_center_km"]),
            "rate": None
            if row["return_rate_last_year"] is None
            else round(float(row["return_rate_last_year"]), 9),
        }
        for row in features.to_dict("records")
    } == expected(mart_world, as_of)


def test_features_of_other_days_stay_and_those_of_the_same_day_are_replaced(mart_world: MartWorld) -> None:
    url, newest = mart_world.warehouse_url, mart_world.mart("as_of").as_of_date[0]
    mart_world.pipeline.warehouse.execute("truncate mart.customer_feature")
    for as_of in (newest, newest - timedelta(days=7), newest):
        built(url, as_of=as_of)
    features = mart_world.mart("customer_feature")
    customers = len(mart_world.raw_table("customer"))
    assert features.groupby("as_of_date").size().to_dict() == {
        newest: customers,
        newest - timedelta(days=7): customers,
    }
    assert set(mart_world.mart("customer_feature_masked").columns).isdisjoint({"customer_id"})


def test_days_and_knowledge_of_the_future_are_refused(mart_world: MartWorld) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(FeaturesRefused, match="lies in the future"):
        built(mart_world.warehouse_url, as_of=tomorrow.date() + timedelta(days=1))
    with pytest.raises(FeaturesRefused, match=r"What will be known at .* lies in the future"):
        built(mart_world.warehouse_url, known_at=tomorrow)


def test_spend_levels_and_other_currencies(shop: Pipeline) -> None:
    """Each line: 2 units at 100, less 10: 190. The last year of 10 March 2024 is March 2023 to February 2024."""
    shop.insert("product", id=2, currency="ARS")
    for customer in range(2, 6):
        shop.insert("customer", id=customer, username=f"c{customer}", email=f"c{customer}@example.com")
    order = iter(range(1, 20))
    for customer, price, quantity in ((2, 50, 1), (3, 100, 1), (4, 150, 1)):
        line = {"unit_price": price, "quantity": quantity, "discount_amount": 0, "unit_price_default": 1}
        shop.order(next(order), "2024-02-10", line, customer_id=customer)
    shop.order(next(order), "2023-02-28", customer_id=5)
    shop.order(next(order), "2023-03-01", {"product_id": 2}, customer_id=5)
    shop.order(next(order), "2023-04-01", {"status": "shipped"}, customer_id=5)
    shop.order(next(order), "2024-03-05", customer_id=5)
    shop.capture()
    built(shop.warehouse_url, as_of=date(2024, 3, 10))
    assert shop.rows(
        """
        select customer_id, spend_last_year_amount::int, profit_level, other_currency_amounts::text, order_count::int
        from mart.customer_feature order by customer_id
        """
    ) == [
        ("1", 0, 1, None, 0),
        ("2", 50, 1, None, 1),
        ("3", 100, 2, None, 1),
        ("4", 150, 3, None, 1),
        ("5", 0, 1, '{"ARS": 190.0000}', 4),
    ]


def test_known_at_takes_the_tables_as_they_stood_then(shop: Pipeline) -> None:
    shop.order(1, "2024-02-10")
    shop.capture()
    (then,) = shop.warehouse.execute("select clock_timestamp()").fetchone() or (None,)
    assert isinstance(then, datetime)
    shop.do(
        "update order_item set status = 'cancelled', updated_at = now()",
        "update customer set country = 'CL', updated_at = '2024-03-01'",
    )
    shop.order(2, "2024-02-11")
    shop.order(3, "2024-02-12")
    shop.capture()
    day = date(2024, 3, 10)
    query = "select order_count::int, spend_last_year_amount::int, country, known_at is null from mart.customer_feature"
    built(shop.warehouse_url, as_of=day)
    assert shop.rows(query) == [(2, 380, "CL", True)]
    built(shop.warehouse_url, as_of=day, known_at=then)
    assert shop.rows(query) == [(1, 190, "AR", False)]
    with pytest.raises(FeaturesRefused, match="no run had published by then"):
        built(shop.warehouse_url, as_of=day, known_at=then - timedelta(days=1))
    shop.warehouse.execute("update audit.run set pruned_at = clock_timestamp() where run_id = 1")
    with pytest.raises(FeaturesRefused, match="can no longer be told"):
        built(shop.warehouse_url, as_of=day, known_at=then)
    assert shop.rows(query) == [(1, 190, "AR", False)]
