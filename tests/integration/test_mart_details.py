"""Marts of details, and what is counted of requests, agree row by row with the generator's raw output."""

from collections import Counter
from decimal import Decimal

import pandas as pd
import pytest

from tests.marts import MartWorld


@pytest.fixture(scope="module")
def lines(mart_world: MartWorld) -> pd.DataFrame:
    return mart_world.raw_lines()


@pytest.fixture(scope="module")
def requests(mart_world: MartWorld) -> pd.DataFrame:
    return mart_world.raw_requests()


def rows(frame: pd.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    """Rows of some columns in any order; what is missing is None."""
    chosen = frame[list(columns)].astype(object)
    return sorted(map(tuple, chosen.where(chosen.notna(), None).to_numpy().tolist()), key=str)


def exact(value: object) -> object:
    """A number as the shop writes it: without the zeros that the warehouse's type adds."""
    return value.normalize() if isinstance(value, Decimal) else value


def test_sales_are_the_shops_lines_with_the_names_of_what_they_refer_to(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    raw = lines.assign(
        order=lines.sales_order_id.astype(str),
        line=lines.line_number.astype(str),
        customer=lines.customer_id.astype(str),
        product=lines.product_id.astype(str),
    )
    raw["promotion_name"] = raw.promotion_name.where(raw.promotion_name != "none", None)
    expected = rows(
        raw.map(exact), "order", "line", "ordered_at", "line_status", "customer", "customer_name", "customer_country",
        "product", "product_name", "category", "company_name", "promotion_name", "payment_method_name", "quantity",
        "unit_price_default", "unit_price", "gross", "discount_amount", "net", "profit", "currency", "returned_at",
    )  # fmt: skip
    sales = mart_world.mart("sales")
    sales["promotion_name"] = sales.promotion_name.where(sales.promotion_name != "none", None)
    found = rows(
        sales.map(exact), "order_id", "line_id", "ordered_at", "status", "customer_id", "customer_name",
        "customer_country", "product_id", "product_name", "category", "company_name", "promotion_name",
        "payment_method_name", "quantity", "base_unit_price_amount", "list_unit_price_amount", "gross_amount",
        "discount_amount", "net_amount", "profit_amount", "currency", "returned_at",
    )  # fmt: skip
    assert found == expected


def test_orders_are_the_shops_lines_with_the_total_of_their_order(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    raw = lines.assign(
        order=lines.sales_order_id.astype(str),
        line=lines.line_number.astype(str),
        product=lines.product_id.astype(str),
        total=lines.groupby("sales_order_id").net.transform("sum"),
    )
    assert rows(
        mart_world.mart("orders").map(exact), "order_id", "line_id", "status", "order_dt", "order_total_price",
        "customer_document_number", "customer_name", "customer_birth_day", "product_id", "cuit", "amount",
        "item_price", "item_price_default",
    ) == rows(
        raw.map(exact), "order", "line", "line_status", "ordered_at", "total", "document_number", "customer_name",
        "birth_date", "product", "cuit", "quantity", "unit_price", "unit_price_default",
    )  # fmt: skip


def test_sales_of_products_by_country_and_totals_of_customers(
    mart_world: MartWorld, lines: pd.DataFrame
) -> None:
    sold = lines[lines.line_status != "cancelled"].assign(
        product=lines.product_id.astype(str), customer=lines.customer_id.astype(str)
    )
    by = ["currency", "category", "customer_country", "product"]
    expected = sold.groupby(by, as_index=False).agg(
        orders=("sales_order_id", "nunique"),
        lines=("net", "size"),
        units=("quantity", "sum"),
        net=("net", "sum"),
    )
    mart = mart_world.mart("sales_by_product_country")
    assert rows(
        mart[mart.line_count > 0].map(exact), "currency", "category", "customer_country", "product_id", "order_count",
        "line_count", "unit_count", "net_amount",
    ) == rows(expected.map(exact), *by, "orders", "lines", "units", "net")  # fmt: skip
    totals = sold.groupby(["customer", "customer_name", "customer_country"], as_index=False).agg(
        orders=("sales_order_id", "nunique"), net=("net", "sum"), first=("date", "min"), last=("date", "max")
    )
    totals["average"] = [round(row.net / row.orders, 9) for row in totals.itertuples()]
    found = mart_world.mart("customer_order_totals")
    found = found[found.order_count > 0]
    found["average_order_amount"] = found.average_order_amount.map(lambda value: round(value, 9))
    assert rows(
        found.map(exact), "customer_id", "customer_name", "customer_country", "order_count", "net_amount",
        "first_ordered_date", "last_ordered_date", "average_order_amount",
    ) == rows(
        totals.map(exact), "customer", "customer_name", "customer_country", "orders", "net", "first", "last", "average"
    )  # fmt: skip


def test_the_as_of_date_is_the_day_of_the_newest_sale(mart_world: MartWorld, lines: pd.DataFrame) -> None:
    newest = lines[lines.line_status != "cancelled"].date.max()
    end = newest.replace(day=1)
    assert rows(
        mart_world.mart("as_of"), "source_system", "as_of_date", "year_start_date", "year_end_date"
    ) == [("shop", newest, end.replace(year=end.year - 1), end)]


def test_web_log_has_every_line_of_the_logs(mart_world: MartWorld, requests: pd.DataFrame) -> None:
    mart = mart_world.mart("weblog").assign(
        address=lambda frame: frame.ip_address.astype(str).str.removesuffix("/32").str.removesuffix("/128")
    )
    assert rows(
        mart, "address", "country", "user_name", "request_timestamp", "request", "product_id", "action", "status_code",
        "response_bytes", "referer", "user_agent", "device", "traffic_source", "traffic_medium",
    ) == rows(
        requests, "address", "country", "user", "at", "request", "product", "action", "status", "size", "referer",
        "agent", "device", "source", "medium",
    )  # fmt: skip


def test_actions_of_users_by_month(mart_world: MartWorld, requests: pd.DataFrame) -> None:
    raw = requests.assign(
        month=requests.date.map(lambda day: day.replace(day=1)), user=requests.user.fillna("-")
    )
    by = ["month", "user", "source", "medium", "device", "action"]
    expected = raw.groupby(by, as_index=False).size()
    assert rows(
        mart_world.mart("web_user_actions"), "request_month", "user_name", "traffic_source", "traffic_medium", "device",
        "action", "interaction_count",
    ) == rows(expected, *by, "size")  # fmt: skip


def test_devices_and_countries_by_users_and_the_most_viewed_products(
    mart_world: MartWorld, requests: pd.DataFrame
) -> None:
    def by_users(column: str) -> list[tuple[object, ...]]:
        counted = requests.groupby(column, as_index=False).agg(
            users=("user", "nunique"), count=("at", "size")
        )
        ranked = counted.sort_values(["users", "count", column], ascending=[False, False, True])
        return list(ranked.itertuples(index=False, name=None))

    devices = mart_world.mart("top_devices_by_users")
    assert devices[["device", "user_count", "request_count"]].values.tolist() == [
        list(row) for row in by_users("device")[:5]
    ]
    countries = mart_world.mart("countries_by_logged_users")
    expected = by_users("country")
    assert countries[["country", "user_count", "request_count"]].values.tolist() == [
        list(row) for row in expected
    ]
    home = str(expected[0][0])
    views = Counter(requests[(requests.country == home) & (requests.action == "view")]["product"])
    best = sorted(views.items(), key=lambda item: (-item[1], item[0]))[:5]
    viewed = mart_world.mart("most_viewed_products")
    assert viewed[["country", "product_id", "view_count"]].values.tolist() == [
        [home, product, count] for product, count in best
    ]
    names = mart_world.raw_table("product").astype({"id": str}).set_index("id").name
    assert list(viewed.product_name) == [names[product] for product, _ in best]
