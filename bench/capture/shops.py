"""Make shops of any size for the benchmarks, and change them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

import psycopg
from psycopg import sql

from generators.shop import create_schema, generate
from generators.shop.load import advance_identities, without_constraints
from stack.postgres import EmbeddedPostgres

HERE = Path(__file__).parent
# Larger shops are copies of this many orders: PostgreSQL copies rows several times as fast as they are drawn.
DRAWN_ORDERS = 1_000_000
# For each table that grows with the orders, its columns that refer to such tables.
GROWING = {
    "customer": {"id": "customer"},
    "product": {"id": "product"},
    "inventory": {"product_id": "product"},
    "sales_order": {"id": "sales_order", "customer_id": "customer"},
    "order_item": {"sales_order_id": "sales_order", "product_id": "product"},
}


def make_shop(postgres: EmbeddedPostgres, orders: int, name: str, report: Callable[[str], None]) -> str:
    """Create a shop with about three items to each of `orders` orders; returns its URL."""
    postgres.create_database(name)
    url = postgres.url(name)
    create_schema(url)
    copies = max(orders // DRAWN_ORDERS, 1)
    drawn = orders // copies
    scale = drawn / 1_000_000
    report(f"generating a shop of {orders:,} orders")
    generate(
        url,
        # The generator draws 2.77 items per order, so that this number of orders has about three times as many items.
        rows=round(1.083 * drawn),
        companies=5_000,
        customers=max(round(100_000 * scale), 1000),
        products=max(round(50_000 * scale), 5000),
        until=datetime(2026, 1, 1, tzinfo=UTC),
    )
    if copies > 1:
        with psycopg.connect(url) as connection, without_constraints(connection):
            _multiply(connection, copies)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
        counts = [
            connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table))).fetchone()
            for table in ("sales_order", "order_item")
        ]
    (sales_orders,), (items,) = (count or (0,) for count in counts)
    report(f"{sales_orders:,} orders with {items:,} items")
    return url


def change_a_day(url: str, day: int) -> None:
    """Change 2% of customers and products, and add 5% of the orders as new ones."""
    statements = (HERE / "changes.sql").read_text().replace(":day", str(day)).replace(":share", "0.05")
    with psycopg.connect(url) as connection:
        connection.execute(statements.encode())


def change_ten_thousand(url: str) -> None:
    """Make 10,000 changes, whatever the size of the shop."""
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "ten_thousand.sql").read_bytes())


def rest(url: str) -> None:
    """Vacuum and analyze after a first load, as autovacuum would minutes later, during other measurements."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")


def settle(url: str) -> None:
    """Wait for autovacuum, and write the server's dirty buffers of earlier loads."""
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(
            "select from pg_stat_activity where backend_type = 'autovacuum worker'"
        ).rowcount:
            sleep(0.5)
        connection.execute("checkpoint")


def _multiply(connection: psycopg.Connection, copies: int) -> None:
    """Copy every row that belongs to an order, a customer or a product, under new keys."""
    highest = {}
    for table in ("customer", "product", "sales_order"):
        row = connection.execute(sql.SQL("select max(id) from {}").format(sql.Identifier(table))).fetchone()
        (highest[table],) = row or (0,)
    for table, references in GROWING.items():
        columns = connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped "
            "order by attnum",
            [table],
        ).fetchall()
        key, parent = next(iter(references.items()))
        for number in range(1, copies):
            values = [
                sql.SQL("{} + {}").format(
                    sql.Identifier(name),
                    sql.Literal(number * highest[references[name]]),
                )
                if name in references
                else sql.Identifier(name)
                for (name,) in columns
            ]
            connection.execute(
                sql.SQL(
                    "insert into {table} ({names}) select {values} from {table} where {key} <= {last}"
                ).format(
                    table=sql.Identifier(table),
                    names=sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
                    values=sql.SQL(", ").join(values),
                    key=sql.Identifier(key),
                    last=sql.Literal(highest[parent]),
                )
            )
    advance_identities(connection)
