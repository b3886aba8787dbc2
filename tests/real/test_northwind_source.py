"""Northwind arrives in its own tables as the whole that is known of it."""

from collections.abc import Callable

import psycopg

from tests.real.northwind_source import csv_folder, load_northwind


def test_northwind_loads_whole(empty_database_url: Callable[[], str]) -> None:
    folder = csv_folder()
    url = empty_database_url()
    assert load_northwind(url, folder) == {
        "categories": 8,
        "customers": 91,
        "employees": 9,
        "suppliers": 29,
        "shippers": 6,
        "region": 4,
        "territories": 53,
        "employee_territories": 49,
        "products": 77,
        "orders": 830,
        "order_details": 2155,
    }
    with psycopg.connect(url) as connection:
        sums = connection.execute(
            """
            select
                round(sum(unit_price::numeric * quantity), 2)::text,
                round(sum(unit_price::numeric * quantity * (1 - discount::numeric)), 2)::text
            from order_details
            """
        ).fetchone()
    assert sums == ("1354458.59", "1265793.04")
