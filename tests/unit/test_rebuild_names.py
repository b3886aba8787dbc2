"""Tables to rebuild, by the names that `dwh explain` takes."""

import pytest

from warehouse.rebuild.tables import full_name


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("customer", "dwh.dim_customer"),
        ("dim_customer", "dwh.dim_customer"),
        ("dwh.dim_customer", "dwh.dim_customer"),
        ("order_item", "dwh.fact_order_item"),
        ("inventory", "dwh.fact_inventory_day"),
        ("weblog", "dwh.fact_weblog"),
        ("dim_user_agent", "dwh.dim_user_agent"),
        ("dim_country", "dwh.dim_country"),
        ("shop_customer", "raw.shop_customer"),
        ("mart.customer_sales", "mart.customer_sales"),
    ],
)
def test_a_table_has_a_short_name(name: str, full: str) -> None:
    assert full_name(name) == full
