"""Lineage: what is told of each table is what the SQL that makes it reads."""

from warehouse.sources.lineage import read_lineage


def test_every_loaded_table_can_be_followed_from_the_source_to_the_stored_marts() -> None:
    origins = read_lineage(["shop", "leads", "mart"])
    assert origins["mart.sales_by_day"][0] == "dwh.fact_order_item"
    assert origins["mart.interactions_by_hour"] == ("dwh.fact_weblog",)
    assert origins["mart.customer_rfm"] == ("mart.customer_sales", "mart.sales_by_day")
    assert origins["dwh.fact_order_item"] == (
        "raw.shop_order_item", "raw.shop_sales_order", "raw.shop_product", "raw.shop_customer",
        "dwh.dim_customer", "dwh.dim_product", "dwh.dim_promotion", "dwh.dim_payment_method",
        "dwh.dim_distribution_center", "dwh.dim_company",
    )  # fmt: skip
    assert origins["dwh.dim_product"] == ("raw.shop_product", "raw.shop_category", "raw.shop_brand")
    assert origins["raw.shop_brand"] == ("shop://public/brand",)
    assert origins["dwh.fact_weblog"] == ("lake://weblogs",)
    origins = read_lineage(["shop", "orders", "leads", "mart"])
    outside = {origin for made in origins.values() for origin in made} - origins.keys()
    assert {origin.split("://")[0] for origin in outside} == {"shop", "lake"}


def test_stars_of_other_sources_are_made_of_their_mirrors() -> None:
    origins = read_lineage(["northwind"])
    assert origins["dwh.dim_customer"] == ("raw.northwind_customers",)
    assert origins["raw.northwind_customers"] == ("northwind://public/customers",)
