"""Generates order files as partners send them: one order a line, reproducible by seed, with known defects."""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from generators.feed_files import FIRST, check_request, days_until, write_file
from generators.leads import lead_id
from generators.shop.database import connect

Order = dict[str, Any]
STATUSES = ("pending", "processing", "shipped", "complete", "complete", "complete", "cancelled")


@dataclass(frozen=True)
class Buyer:
    """A customer as partners know one."""

    document_number: str
    name: str
    birth_day: str


@dataclass(frozen=True)
class Article:
    """A product with its seller's tax number, and its prices in cents."""

    product_id: str
    cuit: str
    price_default: int
    price: int


@dataclass(frozen=True)
class OrderCounts:
    """What was generated: files, orders, items, and the number of orders with a defect by kind."""

    files: tuple[str, ...]
    orders: int
    items: int
    defects: Mapping[str, int]


def generate(
    folder: Path,
    *,
    orders: int = FIRST,
    days: int = 1,
    seed: int = 42,
    until: date | None = None,
    defects: float = 0.02,
    buyers: Sequence[Buyer] = (),
    articles: Sequence[Article] = (),
) -> OrderCounts:
    """Write a file a day with `orders` orders each, the last for `until` (default: yesterday, UTC).

    `defects` is the share of orders that are broken in a known way; the folder <folder>-expected gets the counts of
    each file. Buyers and articles are made up if none are given.

    Raises:
        GeneratorError: a number is out of range.
    """
    check_request("orders", orders, days, defects)
    buyers, articles = buyers or _buyers(seed), articles or _articles(seed)
    names, items, counts = [], 0, Counter[str]()
    for day in days_until(until, days):
        rng = random.Random(f"orders {seed} {day}")
        name = f"orders-{day}.json"
        broken: Counter[str] = Counter()
        lines: list[str] = []
        day_items = 0
        for number in range(1, orders + 1):
            order = _order(rng, day, number, buyers, articles)
            day_items += len(order["items"])
            if rng.random() < defects:
                kind = rng.choice(list(DEFECTS))
                broken[kind] += 1
                lines.append(DEFECTS[kind](order))
            else:
                lines.append(_line(order))
        description = {"orders": orders, "items": day_items, "defects": dict(sorted(broken.items()))}
        write_file(folder, name, "".join(line + "\n" for line in lines).encode(), description)
        names.append(name)
        items += day_items
        counts.update(broken)
    return OrderCounts(tuple(names), orders * days, items, dict(sorted(counts.items())))


def buyers_and_articles(url: str, limit: int = 50_000) -> tuple[list[Buyer], list[Article]]:
    """Read customers and products of a shop, at most `limit` of each; none if it has no tables yet."""
    with connect(url) as connection:
        if connection.execute("select to_regclass('public.product')").fetchone() == (None,):
            return [], []
        buyers = connection.execute(
            "select document_number, name, birth_date::text from public.customer "
            "where document_number is not null and name is not null and birth_date is not null order by id limit %s",
            [limit],
        )
        articles = connection.execute(
            "select product.id::text, company.cuit, (price_default * 100)::bigint, (price * 100)::bigint "
            "from public.product inner join public.company on company.id = product.company_id "
            "where price > price_default and price_default > 0 and cuit is not null order by product.id limit %s",
            [limit],
        )
        return [Buyer(*row) for row in buyers.fetchall()], [Article(*row) for row in articles.fetchall()]


def _order(
    rng: random.Random, day: date, number: int, buyers: Sequence[Buyer], articles: Sequence[Article]
) -> Order:
    buyer = rng.choice(buyers)
    second = rng.randrange(86_400)
    at = datetime.combine(day, time(), UTC) + timedelta(seconds=second)
    items = []
    total = 0
    for article in rng.sample(articles, min(rng.choice((1, 1, 2, 2, 3, 5)), len(articles))):
        amount = rng.choice((1, 1, 1, 2, 3, 10))
        total += amount * article.price
        items.append(
            {
                "product_id": article.product_id,
                "cuit": article.cuit,
                "amount": amount,
                "item_price": article.price / 100,
                "item_price_default": article.price_default / 100,
            }
        )
    return {
        "order_id": f"P{day:%Y%m%d}-{number}",
        "customer_document_number": buyer.document_number,
        "customer_name": buyer.name,
        "customer_birth_day": buyer.birth_day,
        "order_dt": at.isoformat().replace("+00:00", "Z"),
        "status": rng.choice(STATUSES),
        "total_price": total / 100,
        # Every 50th order refers to a lead of that day's list.
        **({"lead_id": lead_id(day, number)} if number % 50 == 0 else {}),
        "items": items,
    }


def _line(order: Order) -> str:
    return json.dumps(order, ensure_ascii=False)


def _without(name: str) -> Callable[[Order], str]:
    return lambda order: _line({**order, name: None})


def _of_first_item(name: str, value: Callable[[Order], object]) -> Callable[[Order], str]:
    def broken(order: Order) -> str:
        first, *others = order["items"]
        return _line({**order, "items": [{**first, name: value(first)}, *others]})

    return broken


# How to break an order, by kind of defect. All these orders are quarantined but LOADED_DEFECTS: those with an unknown
# field, and those whose total is not the sum of their items.
DEFECTS: Mapping[str, Callable[[Order], str]] = {
    "cut_off": lambda order: _line(order)[:-20],
    "no_customer_name": _without("customer_name"),
    "no_order_time": _without("order_dt"),
    "no_document_number": _without("customer_document_number"),
    "total_is_zero": lambda order: _line({**order, "total_price": 0}),
    "total_is_text": lambda order: _line({**order, "total_price": "n/a"}),
    "total_is_nan": lambda order: _line({**order, "total_price": float("nan")}),
    "no_product": _of_first_item("product_id", lambda _: None),
    "price_below_base": _of_first_item("item_price", lambda item: item["item_price_default"] / 2),
    "unknown_field": lambda order: _line({**order, "gift_wrap": True}),
    "wrong_total": lambda order: _line({**order, "total_price": round(order["total_price"] + 1, 2)}),
}


def _buyers(seed: int) -> list[Buyer]:
    rng = random.Random(f"buyers {seed}")
    days = [date(rng.randrange(1950, 2004), n % 12 + 1, n % 28 + 1) for n in range(1000)]
    return [Buyer(f"{rng.randrange(10**8):08}", f"Buyer {n}", str(day)) for n, day in enumerate(days)]


def _articles(seed: int) -> list[Article]:
    rng = random.Random(f"articles {seed}")
    prices = [(base := rng.randrange(100, 50_000), base + rng.randrange(1, 10_000)) for _ in range(1000)]
    return [Article(str(n), f"30{n % 50:08}1", *price) for n, price in enumerate(prices, start=1)]
