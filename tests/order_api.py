"""A shop with known prices, and its order API as a real process."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
from psycopg import sql

from api.preparation import prepare
from cli.api import running_api
from stack.postgres import EmbeddedPostgres

# Of 1,100 products with ids from 1001 on nothing is special. Product 3 is in no distribution center, 4 has no price,
# and one of 5 is as much as an amount can be. Two promotions run, one is over, one begins tomorrow.
ROWS = """
    insert into company (id, cuit, name, country) values (1, '30500000007', 'Acme', 'AR');
    insert into category (id, name) values (1, 'Tools');
    insert into product (id, company_id, category_id, name, price_default, price, currency) values
        (1, 1, 1, 'Hammer', 80, 100, 'USD'), (2, 1, 1, 'Nail', 0.05, 0.10, 'USD'), (3, 1, 1, 'Myth', 1, 2, 'USD'),
        (4, 1, 1, 'Riddle', 1, 'NaN', 'USD'), (5, 1, 1, 'Palace', 1, 999999999999.99, 'EUR');
    insert into product (id, company_id, category_id, name, price_default, price)
    select n, 1, 1, 'Screw ' || n, 1, 2 from generate_series(1001, 2100) as n;
    insert into customer (id, username, email, country)
    select n, 'user' || n, 'user' || n || '@example.com', 'AR' from generate_series(1, 30) as n;
    insert into payment_method (id, name, kind) values (1, 'Visa', 'card'), (2, 'Pix', 'transfer');
    insert into distribution_center (id, name) values (1, 'Rosario'), (2, 'Salta'), (3, 'Jujuy');
    insert into inventory (product_id, distribution_center_id, quantity) values
        (1, 1, 10), (1, 2, 30), (1, 3, 30), (2, 3, 0), (4, 1, 5), (5, 1, 5);
    insert into inventory (product_id, distribution_center_id, quantity)
    select n, 1, 7 from generate_series(1001, 2100) as n;
    insert into promotion (id, code, name, discount_share, starts_at, ends_at) values
        (1, 'SMALL', 'Small', 0.1, now() - interval '1 day', now() + interval '9 days'),
        (2, 'LARGE', 'Large', 0.3, now() - interval '1 day', now() + interval '9 days'),
        (3, 'OVER', 'Over', 0.5, now() - interval '9 days', now() - interval '1 day'),
        (4, 'SOON', 'Soon', 0.9, now() + interval '1 day', now() + interval '9 days');
"""
TOKEN = "a token of 16 or more".replace(" ", "-")
HAMMERS: dict[str, Any] = {"customerId": 1, "payment_id": 2, "products": [{"productId": 1, "quantity": 2}]}


class OrderApi:
    """The API at `url` and the shop behind it."""

    def __init__(self, url: str, shop_url: str) -> None:
        self.url, self.shop_url = url, shop_url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.shop = psycopg.connect(shop_url, autocommit=True)

    def place(self, order: object = HAMMERS, **headers: str) -> httpx.Response:
        """Ask for an order."""
        return self.http.post("/api/v1/orders", json=order, headers=headers)

    def change(self, order_id: int, change: object) -> httpx.Response:
        """Ask for a change of an order."""
        return self.http.patch(f"/api/v1/orders/{order_id}", json=change)

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of the shop."""
        return self.shop.execute(query.encode(), parameters or None).fetchall()

    def count(self) -> tuple[int, int, int]:
        """How many orders, lines and keys the shop has."""
        (counts,) = self.rows(
            "select (select count(*) from sales_order), (select count(*) from order_item),"
            " (select count(*) from order_request)"
        )
        return counts  # type: ignore[return-value]

    def close(self) -> None:
        """Close both connections."""
        self.http.close()
        self.shop.close()


def fill(shop_url: str) -> None:
    """Give a shop without rows those that these tests know, and what the API needs."""
    with psycopg.connect(shop_url) as connection:
        connection.execute(ROWS)
    prepare(shop_url)


@contextmanager
def order_api(shop_url: str) -> Iterator[OrderApi]:
    """The API of a shop, as a process."""
    with running_api(shop_url) as url:
        api = OrderApi(url, shop_url)
        try:
            yield api
        finally:
            api.close()


@contextmanager
def shop_copy(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """URL of a shop with the known rows, for a whole module."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        copy = sql.SQL("create database {} template {} strategy file_copy")
        connection.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        fill(postgres.url(name))
        yield postgres.url(name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem of an answer, whose form is that of every error."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
        answer.text
    )
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert (
        {"type", "title", "status", "detail"}
        <= body.keys()
        <= {"type", "title", "status", "detail", "errors"}
    )
    return body


def pointers(answer: httpx.Response) -> list[str]:
    """What a 400 says is wrong."""
    return [fault["pointer"] for fault in problem(answer, 400).get("errors", [])]
