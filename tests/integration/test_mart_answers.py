"""Every mart agrees, to the cent, with what pandas computes from the generator's raw output without the warehouse."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from generators import weblogs as log_generator
from generators.shop import simulate_day
from tests.marts import UNTIL, MartWorld, refresh
from warehouse.db.connections import connect
from warehouse.model.mart import stored_marts
from warehouse.reconcile.marts import reconcile_marts

KEYS = ["source_system", "currency"]
METRICS = [
    "order_count", "line_count", "unit_count", "gross_amount", "discount_amount", "net_amount", "profit_amount",
    "returned_line_count", "returned_net_amount", "cancelled_line_count", "cancelled_net_amount",
]  # fmt: skip


@pytest.fixture(scope="module")
def lines(mart_world: MartWorld) -> pd.DataFrame:
    return mart_world.raw_lines()


@pytest.fixture(scope="module")
def requests(mart_world: MartWorld) -> pd.DataFrame:
    return mart_world.raw_requests()


def measured(lines: pd.DataFrame, by: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """All metrics of order lines by group."""
    gone, back = lines.line_status == "cancelled", lines.line_status == "returned"
    sums = {
        "line_count": (~gone).astype(int),
        "unit_count": lines.quantity.where(~gone, 0),
        "gross_amount": lines.gross.where(~gone, 0),
        "discount_amount": lines.discount_amount.where(~gone, 0),
        "net_amount": lines.net.where(~gone, 0),
        "profit_amount": lines.profit.where(~gone, 0),
        "returned_line_count": back.astype(int),
        "returned_net_amount": lines.net.where(back, 0),
        "cancelled_line_count": gone.astype(int),
        "cancelled_net_amount": lines.net.where(gone, 0),
    }
    grouped = lines.assign(**sums, sold_order=lines.sales_order_id.where(~gone)).groupby(list(by))
    found = grouped[list(sums)].sum().astype(object)
    found.insert(0, "order_count", grouped.sold_order.nunique())
    keys = [key if isinstance(key, tuple) else (key,) for key in found.index]
    return dict(zip(keys, found.to_dict("records"), strict=True))


def shown(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """The same of a mart's rows; empty values are None."""
    rows = frame.astype(object).where(frame.notna(), None)
    return {
        tuple(row[name] for name in by): {column: row[column] for column in columns}
        for row in rows.to_dict("records")
    }


@pytest.mark.parametrize(
    ("mart", "by"),
    [
        ("sales_by_day", {"ordered_date": "date"}),
        ("sales_by_month", {"month": "month"}),
        ("sales_by_category_month", {"category": "category", "ordered_month": "month"}),
        ("sales_by_product", {"category": "category", "product_id": "product"}),
        ("sales_by_payment_method", {"payment_method_name": "payment_method_name", "ordered_month": "month"}),
        ("sales_by_promotion", {"promotion_name": "promotion_name", "ordered_month": "month"}),
        ("customer_sales", {"customer_id": "customer"}),
        ("total_sales", {}),
    ],
)
def test_sales_are_the_sum_of_the_shops_lines(
    mart_world: MartWorld, lines: pd.DataFrame, mart: str, by: dict[str, str]
) -> None:
    raw = lines.assign(
        product=lines.product_id.astype(str), customer=lines.customer_id.astype(str), source_system="shop"
    )
    assert shown(mart_world.mart(mart), [*KEYS, *by], METRICS) == measured(raw, [*KEYS, *by.values()])


def test_sales_by_country_and_by_segment_are_the_sum_of_the_shops_lines(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    columns = ["order_count", "line_count", "unit_count", "net_amount", "profit_amount"]
    by = ["category", "customer_country", "month"]
    expected = {
        key: {name: row[name] for name in columns} for key, row in measured(lines, [*KEYS[1:], *by]).items()
    }
    named = [*KEYS[1:], "category", "customer_country", "ordered_month"]
    assert shown(mart_world.mart("sales_by_country_month"), named, columns) == expected
    # Who is in which segment is compared with the shop's lines where customers are scored.
    ranking = mart_world.mart("customer_ranking")
    segment_of = dict(zip(ranking.customer_id, ranking.segment, strict=True))
    sold = lines[lines.line_status != "cancelled"]
    in_segments = measured(
        sold.assign(segment=sold.customer_id.astype(str).map(segment_of)), ["currency", "segment", *by]
    )
    del columns[0]
    mart = mart_world.mart("sales_by_segment_month")
    assert shown(mart, ["currency", "segment", *named[1:]], columns) == {
        key: {name: row[name] for name in columns} for key, row in in_segments.items()
    }
    assert set(mart.as_of_date) == set(ranking.as_of_date)


def test_orders_have_the_totals_of_their_lines(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    raw = measured(lines.assign(order=lines.sales_order_id.astype(str)), ["order"])
    columns = ["line_count", "unit_count", "gross_amount", "discount_amount", "net_amount", "profit_amount"]
    expected = {key: {column: row[column] for column in columns} for key, row in raw.items()}
    assert shown(mart_world.mart("order_totals"), ["order_id"], columns) == expected


def test_days_of_the_week_share_the_sales(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    sold = lines[lines.line_status != "cancelled"]
    net = sold.groupby(pd.to_datetime(sold.date).dt.isocalendar().day).net.sum()
    mart = mart_world.mart("sales_by_weekday")
    assert dict(zip(mart.day_of_week, mart.net_amount, strict=True)) == net.to_dict()
    assert list(mart.day_name) == [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ]
    assert [round(share, 12) for share in mart.net_share] == [round(each / net.sum(), 12) for each in net]
    assert list(mart.sales_rank) == list(net.astype(float).rank(ascending=False).astype(int))


def test_the_last_year_is_the_twelve_full_months_before_the_newest_sale(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    sold = lines[lines.line_status != "cancelled"]
    end = pd.Period(sold.date.max(), "M")
    months = [(end - back).start_time.date() for back in range(12, 0, -1)]
    expected = measured(lines[lines.month.isin(months)], ["month"])
    mart = mart_world.mart("monthly_sales")
    assert list(mart.month) == months
    assert shown(mart, ["month"], METRICS) == expected
    assert set(mart.as_of_date) == {sold.date.max()}


def test_best_sellers_and_most_profitable_products_are_ranked(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    sold = lines[lines.line_status != "cancelled"]
    products = sold.groupby(["product_id", "product_name", "category"], as_index=False)[
        ["quantity", "net", "profit"]
    ].sum()
    products["id"] = products.product_id.astype(str)
    best = products.sort_values(["quantity", "net", "id"], ascending=[False, False, True]).head(10)
    mart = mart_world.mart("top_sellers")
    columns = [
        "product_rank",
        "product_id",
        "product_name",
        "category",
        "unit_count",
        "net_amount",
        "profit_amount",
    ]
    assert mart[columns].values.tolist() == [
        [rank, row.id, row.product_name, row.category, row.quantity, row.net, row.profit]
        for rank, row in enumerate(best.itertuples(), 1)
    ]
    expected = [
        [category, rank, row.id, row.profit]
        for category, group in products.groupby("category")
        for rank, row in enumerate(
            group.sort_values(["profit", "net", "id"], ascending=[False, False, True]).head(5).itertuples(), 1
        )
    ]
    found = mart_world.mart("top_profitable_products")
    assert found[["category", "product_rank", "product_id", "profit_amount"]].values.tolist() == expected


def test_best_products_of_each_region(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    sold = lines[lines.line_status != "cancelled"].assign(id=lines.product_id.astype(str))
    region = ["category", "customer_country"]
    best = sold.groupby([*region, "id"], as_index=False)[["quantity", "net"]].sum()
    best = best.sort_values(["quantity", "net", "id"], ascending=[False, False, True])
    best["rank"] = best.groupby(region).cumcount() + 1
    expected = {
        (row.category, row.customer_country, row.rank): (row.id, row.quantity, row.net)
        for row in best[best["rank"] <= 5].itertuples()
    }
    assert {
        (row.category, row.customer_country, row.product_rank): (
            row.product_id,
            row.unit_count,
            row.net_amount,
        )
        for row in mart_world.mart("top_products_by_region").itertuples()
    } == expected


def test_payment_methods_promotions_and_returns(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    sold = lines[lines.line_status != "cancelled"]
    methods = sold.groupby("payment_method_name").agg(
        orders=("sales_order_id", "nunique"), net=("net", "sum")
    )
    methods = methods.reset_index().sort_values(
        ["orders", "net", "payment_method_name"], ascending=[False, False, True]
    )
    mart = mart_world.mart("payment_methods_by_use")
    assert (
        mart[["payment_method_name", "order_count", "net_amount"]].values.tolist() == methods.values.tolist()
    )
    assert [round(float(share), 12) for share in mart.order_share] == [
        round(count / methods.orders.sum(), 12) for count in methods.orders
    ]
    promotions = sold.groupby("promotion_name").agg(
        lines=("net", "size"), gross=("gross", "sum"), discount=("discount_amount", "sum"), net=("net", "sum")
    )
    costs = mart_world.mart("promotion_costs").set_index("promotion_name")
    assert costs[["line_count", "gross_amount", "discount_amount", "net_amount"]].T.to_dict("list") == (
        promotions.T.to_dict("list")
    )
    declared = mart_world.raw_table("promotion").set_index("name")
    for name, row in costs.drop("none").iterrows():
        assert (row.discount_share, row.starts_at) == (
            declared.discount_share[name],
            declared.starts_at[name],
        )
    returned = sold.groupby("category").agg(
        lines=("net", "size"), back=("line_status", lambda status: (status == "returned").sum())
    )
    rates = mart_world.mart("return_rates").set_index("category")
    assert rates[["line_count", "returned_line_count"]].T.to_dict("list") == returned.T.to_dict("list")
    for name, rate in rates.return_rate.items():
        assert round(float(rate), 12) == round(returned.back[name] / returned.lines[name], 12)


def test_category_trend_compares_with_the_month_before(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    net = lines[lines.line_status != "cancelled"].groupby(["category", "month"]).net.sum()
    for row in mart_world.mart("category_trend").itertuples():
        before = (pd.Period(row.ordered_month, "M") - 1).start_time.date()
        assert row.net_amount == net.get((row.category, row.ordered_month), 0)
        assert row.previous_net_amount == net.get((row.category, before), 0)


def test_customers_are_ranked_and_scored(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    sold = lines[lines.line_status != "cancelled"].assign(customer=lines.customer_id.astype(str))
    customers = sold.groupby("customer", as_index=False).agg(
        orders=("sales_order_id", "nunique"), net=("net", "sum"), last=("date", "max")
    )
    customers = customers.sort_values(["net", "orders", "customer"], ascending=[False, False, True])
    as_of = sold.date.max()

    def score(values: pd.Series) -> list[int]:
        share = (values.rank(method="min") - 1) / (len(values) - 1)
        return [min(5, 1 + int(5 * each)) for each in share]

    def score_of_recency(days: pd.Series) -> list[int]:
        share = (days.rank(method="min") - 1) / (len(days) - 1)
        return [max(1, 5 - int(5 * each)) for each in share]

    expected = [
        [rank, row.customer, row.orders, row.net, row.last, (as_of - row.last).days, *scores]
        for rank, (row, scores) in enumerate(
            zip(
                customers.itertuples(),
                zip(
                    score_of_recency(customers["last"].map(lambda day: (as_of - day).days)),
                    score(customers.orders),
                    score(customers.net.astype(float)),
                    strict=True,
                ),
                strict=True,
            ),
            1,
        )
    ]
    mart = mart_world.mart("customer_ranking")
    assert (
        mart[
            [
                "customer_rank", "customer_id", "order_count", "net_amount", "last_ordered_date", "recency_days",
                "recency_score", "frequency_score", "monetary_score",
            ]
        ].values.tolist()
        == expected
    )  # fmt: skip
    assert set(mart.as_of_date) == {as_of}
    assert set(mart.segment) <= {"champion", "loyal", "new", "at risk", "lost", "regular"}
    # Scores are compared above; a segment is a name for some of them.
    segment_of = dict(zip(mart.customer_id, mart.segment, strict=True))
    by_segment = customers.groupby(customers.customer.map(segment_of)).agg(
        customers=("customer", "size"), orders=("orders", "sum"), net=("net", "sum")
    )
    segments = mart_world.mart("customer_segments").set_index("segment")
    assert segments[["customer_count", "order_count", "net_amount"]].T.to_dict(
        "list"
    ) == by_segment.T.to_dict("list")
    for name, share in segments.net_share.items():
        assert round(float(share), 12) == round(float(by_segment.net[name] / customers.net.sum()), 12)


def test_interactions_by_day_hour_action_and_device(mart_world: MartWorld, requests: pd.DataFrame) -> None:
    by = ["date", "hour", "action", "device"]
    expected = requests.groupby(by).size().to_dict()
    mart = mart_world.mart("interactions_by_hour")
    assert (
        dict(
            zip(
                zip(mart.request_date, mart.request_hour, mart.action, mart.device, strict=True),
                mart.interaction_count,
                strict=True,
            )
        )
        == expected
    )
    daily = mart_world.mart("interactions_by_day").set_index(["request_date", "action"]).interaction_count
    assert daily.to_dict() == requests.groupby(["date", "action"]).size().to_dict()


def test_funnel_from_view_to_order(
    mart_world: MartWorld, requests: pd.DataFrame, lines: pd.DataFrame
) -> None:
    def users(action: str) -> set[str]:
        return set(requests[(requests.action == action) & requests.user.notna()].user)

    customers = mart_world.raw_table("customer").set_index("id").username
    buyers = set(customers[lines[lines.line_status != "cancelled"].customer_id.unique()])
    viewed = users("view")
    added = viewed & users("add_to_cart")
    checked = added & users("checkout")
    counts = [len(viewed), len(added), len(checked), len(checked & buyers)]
    mart = mart_world.mart("purchase_funnel")
    assert list(mart.step) == ["view", "add to cart", "checkout", "order"]
    assert list(mart.user_count) == counts
    assert counts == sorted(counts, reverse=True) and counts[-1] > 0
    assert [round(float(share), 12) for share in mart.share_of_first] == [
        round(count / counts[0], 12) for count in counts
    ]


def test_conversion_per_traffic_source(
    mart_world: MartWorld, requests: pd.DataFrame, lines: pd.DataFrame
) -> None:
    customers = mart_world.raw_table("customer").set_index("id").username
    buyers = set(customers[lines[lines.line_status != "cancelled"].customer_id.unique()])
    logged = requests[requests.user.notna()]
    expected = {
        (source, medium): (
            group.user.nunique(),
            len(set(group.user) & set(customers)),
            len(set(group.user) & buyers),
            len(group),
        )
        for (source, medium), group in logged.groupby(["source", "medium"])
    }
    assert {
        (row.traffic_source, row.traffic_medium): (
            row.user_count,
            row.customer_count,
            row.buyer_count,
            row.interaction_count,
        )
        for row in mart_world.mart("traffic_source_conversion").itertuples()
    } == expected


def test_customers_by_region_tier_and_age(
    mart_world: MartWorld, requests: pd.DataFrame, lines: pd.DataFrame
) -> None:
    sold = lines[lines.line_status != "cancelled"]
    customers = mart_world.raw_table("customer")
    customers["orders"] = customers.id.map(sold.groupby("customer_id").sales_order_id.nunique()).fillna(0)
    customers["last"] = customers.id.map(sold.groupby("customer_id").date.max())
    customers["requests"] = customers.username.map(requests.groupby("user").size()).fillna(0)
    as_of = sold.date.max()
    year_start = (pd.Period(as_of, "M") - 12).start_time.date()
    customers["active"] = customers["last"].map(
        lambda day: day == day and day is not None and day >= year_start
    )

    def age_group(birth: Any) -> str:
        age = as_of.year - birth.year - ((as_of.month, as_of.day) < (birth.month, birth.day))
        limits = {18: "0-17", 25: "18-24", 35: "25-34", 45: "35-44", 55: "45-54", 65: "55-64"}
        return next((name for limit, name in limits.items() if age < limit), "65 and over")

    customers["age_group"] = customers.birth_date.map(age_group)
    by_region = {
        key: (
            len(group),
            group.active.sum(),
            (group.requests > 0).sum(),
            group.orders.sum(),
            group.requests.sum(),
        )
        for key, group in customers.groupby(["country", "state", "loyalty_tier"])
    }
    assert {
        (row.country, row.state, row.loyalty_tier): (
            row.customer_count,
            row.active_customer_count,
            row.web_customer_count,
            row.order_count,
            row.interaction_count,
        )
        for row in mart_world.mart("customer_activity_by_region").itertuples()
    } == by_region
    by_age = {
        key: (
            len(group),
            (group.requests > 0).sum(),
            group.requests.sum(),
            (group.orders > 0).sum(),
            group.orders.sum(),
        )
        for key, group in customers.groupby("age_group")
    }
    assert {
        row.age_group: (
            row.customer_count,
            row.web_customer_count,
            row.interaction_count,
            row.buyer_count,
            row.order_count,
        )
        for row in mart_world.mart("customer_age_groups").itertuples()
    } == by_age


def test_refresh_computes_only_what_changed_and_misses_nothing(mart_world: MartWorld) -> None:
    """The last test here: it changes the shop."""
    pipeline, lake = mart_world.pipeline, mart_world.lake
    for day in range(2):
        simulate_day(mart_world.shop_url, changes=150, seed=day, defects=0.1)
    # The shop is a copy of the one that was loaded.
    pipeline.capture(accept_source=True)
    # By hand, without a run: the change log has them.
    for statement in (
        "update dwh.fact_order_item set net_amount = net_amount + 1, status = 'returned' where order_id = '7'",
        "delete from dwh.fact_order_item where order_id = '8'",
        "update dwh.dim_payment_method set name = 'Plastic' where name = 'Visa'",
        "update dwh.dim_customer set country = 'AQ' where customer_id = '9' and source_system = 'shop'",
        "update dwh.dim_product set category = 'Corrected' where product_id = '9' and source_system = 'shop'",
        # Its lines name nothing any more.
        "delete from dwh.dim_promotion where promotion_key = (select min(promotion_key) from dwh.fact_order_item "
        "where promotion_key > 0)",
    ):
        pipeline.warehouse.execute(statement.encode())
    log_generator.generate(lake.landing, lines=300, days=1, until=UNTIL.date(), bad_share=0)
    lake.load()
    loads = refresh(mart_world.warehouse_url)
    for mart in ("sales_by_day", "sales_by_product_country", "customer_sales", "interactions_by_hour"):
        assert 0 < loads[mart].rows_inserted < loads[mart].rows_read, mart
    # Of an attribute that was corrected in place, the rows that lines of these members are in.
    assert loads["sales_by_payment_method"].rows_inserted == loads["sales_by_payment_method"].rows_read
    corrected = "where customer_country = 'AQ' or category = 'Corrected'"
    for mart in ("sales_by_product_country", "sales_by_country_month"):
        assert pipeline.rows(f"select from mart.{mart} {corrected}"), mart
    with connect(mart_world.warehouse_url) as connection:
        verdicts = {
            verdict.table_name: verdict.rows_differing
            for verdict in reconcile_marts(connection, repair=False)
        }
    assert verdicts == {f"mart.{mart.name}": 0 for mart in stored_marts()}
    again = refresh(mart_world.warehouse_url)
    assert {mart.name for mart in stored_marts() if mart.follows and again[mart.name].rows_inserted} == set()


def test_reconcile_repairs_a_stored_mart_that_was_damaged(mart_world: MartWorld) -> None:
    with connect(mart_world.warehouse_url) as connection:
        connection.execute(
            "update mart.sales_by_day set net_amount = net_amount + 0.01 where ordered_date = current_date - 40"
        )
        for repair in (False, True):
            damaged = {
                verdict.table_name: verdict.rows_differing
                for verdict in reconcile_marts(connection, repair=repair)
            }
            assert damaged["mart.sales_by_day"] == 1
        assert not any(verdict.rows_differing for verdict in reconcile_marts(connection, repair=True))
