"""Generate a whole shop with two years of history, and load it by COPY."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
from psycopg import Connection, sql

from generators.errors import GeneratorError
from generators.shop import orders as drawn
from generators.shop.catalog import CATEGORIES, draw_products, lookups
from generators.shop.database import connect
from generators.shop.load import TABLES, Progress, advance_identities, copy_rows, without_constraints
from generators.shop.past_orders import CUSTOMER_DEFECTS, Assortment, PastOrders
from generators.shop.people import Instants, draw_companies, draw_customers
from generators.shop.stock import PastSales, draw_stock

HISTORY = np.timedelta64(730, "D")
YEAR = np.timedelta64(365, "D")


def generate(
    url: str,
    *,
    rows: int = 5000,
    companies: int = 5000,
    customers: int = 5000,
    products: int = 5000,
    seed: int = 42,
    until: datetime | None = None,
    defects: float = 0.002,
    replace: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Fill an empty shop with so many orders (rows), companies, customers and products, over two years.

    The same seed and the same until (default: the beginning of today, UTC: the data end yesterday) give the same rows.
    defects is the share of customers and of orders that break a rule on purpose. The result counts the rows of each
    table and, as defects_customer_* and defects_item_*, those that break each rule. A shop that holds data is an error
    unless replace is set, which empties it first.
    """
    report = progress or (lambda table, done, total: None)
    _check(rows, companies, customers, products, defects)
    end = _instant(until)
    since = end - HISTORY
    small = lookups(seed, since, end)
    with connect(url) as connection:
        _make_room(connection, replace)
        with without_constraints(connection):
            counts = {table: copy_rows(connection, table, frame) for table, frame in small.items()}

            sellers = _companies(seed, companies, since, end)
            counts["company"] = _copy(connection, "company", sellers, report)

            people, bad_people = _customers(seed, customers, since, end, defects)
            counts["customer"] = _copy(connection, "customer", people, report)

            goods, assortment = _products(seed, products, since, end, sellers, small["brand"])
            rng = np.random.default_rng([seed, 7])
            stock = draw_stock(rng, goods["id"].to_numpy(), small["distribution_center"]["id"].to_numpy())
            sales = PastSales(stock, assortment.created_at)
            past = PastOrders(seed, rows, since, end, people, assortment, small["promotion"], sales, defects)
            counts |= past.copy(connection, report)

            goods = goods.with_columns(**sales.counters(rng, assortment.changed_at, end))
            counts["product"] = _copy(connection, "product", goods, report)
            counts["inventory"] = _copy(connection, "inventory", sales.inventory(rng, since, end), report)
            report("indexes and foreign keys", 0, 1)
        advance_identities(connection)
        for table in TABLES:
            connection.execute(sql.SQL("analyze public.{}").format(sql.Identifier(table)))
        report("indexes and foreign keys", 1, 1)
    return {table: counts[table] for table in TABLES} | bad_people | past.defects


def _check(rows: int, companies: int, customers: int, products: int, defects: float) -> None:
    sizes = {"orders (rows)": rows, "companies": companies, "customers": customers, "products": products}
    for name, size in sizes.items():
        if size < 0:
            raise GeneratorError(f"The number of {name} is {size}.", "Ask for 0 or more.")
    if products and not companies:
        raise GeneratorError(
            "There are products, but no company to sell them.", "Ask for at least one company."
        )
    if rows and not (customers and products):
        raise GeneratorError(
            f"{rows} orders need customers and products, but there are {customers} and {products}.",
            "Ask for at least one of each.",
        )
    if not 0 <= defects <= 1:
        raise GeneratorError(f"The share of defects is {defects}.", "Ask for a share between 0 and 1.")


def _instant(moment: datetime | None) -> np.datetime64:
    moment = moment or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if moment.tzinfo is None:
        raise GeneratorError(
            f"The moment {moment} has no time zone.", "Add one, as in 2026-01-31T00:00+00:00."
        )
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def _make_room(connection: Connection, replace: bool) -> None:
    if replace:
        names = sql.SQL(", ").join(sql.Identifier("public", table) for table in TABLES)
        connection.execute(sql.SQL("truncate {} restart identity").format(names))
        return
    for table in TABLES:
        if connection.execute(
            sql.SQL("select from public.{} limit 1").format(sql.Identifier(table))
        ).rowcount:
            raise GeneratorError(
                f"The shop already holds data (table {table}).",
                "Simulate its next day instead, replace its data explicitly, or use another database.",
            )


def _copy(connection: Connection, table: str, rows: pl.DataFrame, report: Progress) -> int:
    count = copy_rows(connection, table, rows)
    report(table, count, count)
    return count


def _joined(
    rng: np.random.Generator, count: int, early: float, since: np.datetime64, until: np.datetime64
) -> Instants:
    # some join in the year before the first order; the first joins at its beginning, so that all later rows can use it
    before = max(1, round(count * early))
    ages = np.sort(rng.random(before)) * YEAR.astype("timedelta64[us]").astype(np.int64)
    ages[0] = 0
    start = since - YEAR + ages.astype("timedelta64[us]")
    return np.concatenate([start, drawn.draw_times(rng, max(0, count - before), since, until)])[:count]


def _changed(rng: np.random.Generator, created_at: Instants, share: float, until: np.datetime64) -> Instants:
    life = (until - created_at).astype(np.int64) * rng.random(len(created_at))
    return np.where(
        rng.random(len(created_at)) < share, created_at + life.astype("timedelta64[us]"), created_at
    )


def _companies(seed: int, count: int, since: np.datetime64, until: np.datetime64) -> pl.DataFrame:
    rng = np.random.default_rng([seed, 2])
    created_at = _joined(rng, count, 0.7, since, until)
    updated_at = _changed(rng, created_at, 0.1, until)
    frame = draw_companies(rng, np.arange(1, count + 1), created_at)
    return frame.with_columns(pl.Series("updated_at", updated_at, dtype=pl.Datetime("us")))


def _customers(
    seed: int, count: int, since: np.datetime64, until: np.datetime64, defects: float
) -> tuple[pl.DataFrame, dict[str, int]]:
    rng = np.random.default_rng([seed, 3])
    created_at = _joined(rng, count, 0.3, since, until)
    updated_at = _changed(rng, created_at, 0.3, until)
    frame = draw_customers(rng, np.arange(1, count + 1), created_at)
    bad = rng.choice(count, round(count * defects), replace=False) + 1
    by_rule = {column: bad[n :: len(CUSTOMER_DEFECTS)] for n, column in enumerate(CUSTOMER_DEFECTS)}
    frame = frame.with_columns(
        pl.Series("updated_at", updated_at, dtype=pl.Datetime("us")),
        *(
            pl.when(~pl.col("id").is_in(ids.tolist())).then(pl.col(column)).alias(column)
            for column, ids in by_rule.items()
        ),
    )
    return frame, {f"defects_customer_{column}": len(ids) for column, ids in by_rule.items()}


def _products(
    seed: int,
    count: int,
    since: np.datetime64,
    until: np.datetime64,
    sellers: pl.DataFrame,
    brands: pl.DataFrame,
) -> tuple[pl.DataFrame, Assortment]:
    rng = np.random.default_rng([seed, 4])
    created_at = _joined(rng, count, 0.5, since, until)
    changed_at = _changed(rng, created_at, 0.45, until)
    seller_counts = np.searchsorted(sellers["created_at"].to_numpy(), created_at, side="right")
    company = drawn.draw_popular(rng, 1 / np.arange(4, sellers.height + 4) ** 0.6, seller_counts) + 1
    category_ids = np.arange(1, len(CATEGORIES) + 1)
    frame = draw_products(rng, np.arange(1, count + 1), created_at, company, category_ids, brands)
    default, price = (
        (frame[column] * 100).round().cast(pl.Int64).to_numpy() for column in ("price_default", "price")
    )
    # prices rise more often than they fall
    step = rng.normal(1.06, 0.08, count).clip(0.8, 1.4)
    default_before = np.maximum(1, (default / step).astype(np.int64))
    before = np.maximum(default_before + 1, (price / step).astype(np.int64))
    return frame, Assortment(created_at, changed_at, default_before, before, default, price)
