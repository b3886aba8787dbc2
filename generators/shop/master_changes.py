"""Changes of a simulated day to customers, companies, products and categories."""

import numpy as np
import polars as pl
from psycopg import sql

from generators.shop.catalog import CATEGORY_WORDS, draw_products
from generators.shop.day import Day
from generators.shop.geography import draw_places
from generators.shop.load import copy_rows
from generators.shop.people import TIER_SHARES, TIERS, Ids, draw_customers
from generators.shop.stock import stock_products


def bring_back(day: Day, count: int) -> None:
    """Insert customers and products under ids that were deleted on an earlier day."""
    for table, insert in (("customer", _insert_customers), ("product", _insert_products)):
        missing = sql.SQL(
            "select g.id from generate_series(1, (select max(id) from public.{table})) as g (id)"
            " where not exists (select from public.{table} as t where t.id = g.id) order by g.id limit %s"
        ).format(table=sql.Identifier(table))
        ids = [key for (key,) in day.connection.execute(missing, [count])]
        insert(day, np.array(day.take(table, ids), dtype=np.int64))


def delete_strangers(day: Day, count: int) -> None:
    """Delete customers who never ordered and products that were never sold."""
    never_ordered = "not exists (select from public.sales_order as o where o.customer_id = t.id)"
    never_sold = "not exists (select from public.order_item as i where i.product_id = t.id)"
    customers = day.sample("customer", day.deletable("customer", count), never_ordered, oversample=30)
    day.delete("customer", "id", customers)
    products = day.sample("product", day.deletable("product", count), never_sold, oversample=30)
    day.delete("inventory", "product_id", products)
    day.delete("product", "id", products)


def register_customers(day: Day, count: int) -> None:
    """Insert new customers, early enough to order on the same day."""
    _insert_customers(day, day.new_ids("customer", count))


def add_products(day: Day, count: int) -> None:
    """Insert new products of existing companies, categories and brands."""
    _insert_products(day, day.new_ids("product", count))


def change_prices(day: Day, count: int) -> None:
    """Raise or lower the prices of products."""
    ids = day.sample("product", count)
    factors = day.rng.choice((0.85, 0.9, 0.95, 1.03, 1.05, 1.08, 1.15), len(ids))
    day.update("product", "change_prices", ids=ids, factors=factors.tolist())


def move_customers(day: Day, count: int) -> None:
    """Let customers move to another home."""
    ids = day.sample("customer", count)
    countries, states, latitudes, longitudes = draw_places(day.rng, len(ids))
    day.update(
        "customer",
        "move_customers",
        ids=ids,
        countries=countries,
        states=states,
        latitudes=latitudes.tolist(),
        longitudes=longitudes.tolist(),
    )


def change_tiers(day: Day, count: int) -> None:
    """Let customers rise or fall to another loyalty tier."""
    ids = day.sample("customer", count)
    tiers = day.rng.choice(TIERS, len(ids), p=TIER_SHARES)
    day.update("customer", "change_tiers", ids=ids, tiers=tiers.tolist())


def change_logins(day: Day, count: int) -> None:
    """Give customers another user name and e-mail address."""
    day.update("customer", "change_logins", ids=day.sample("customer", count))


def complete_registrations(day: Day, count: int) -> None:
    """Fill in the missing columns of a tenth of the customers who have such columns, at most `count`."""
    gaps = (
        "select id from public.customer where birth_date is null or document_number is null or name is null"
    )
    waiting = [key for (key,) in day.connection.execute(f"{gaps} order by id")]
    waiting = [key for key in waiting if key not in day.touched["customer"]]
    ids = day.take("customer", waiting[: min(count, -(-len(waiting) // 10))])
    complete = draw_customers(day.rng, np.array(ids, dtype=np.int64), day.early_instants(len(ids)))
    columns = {f"{name}s": complete[name].to_list() for name in ("birth_date", "document_number", "name")}
    day.update("customer", "complete_registrations", ids=ids, **columns)


def rename_companies(day: Day, count: int) -> None:
    """Rename companies."""
    day.update("company", "rename_companies", ids=day.sample("company", count))


def rename_categories(day: Day, count: int) -> None:
    """Rename categories: a change in the parent row of many products."""
    for key in day.sample("category", count):
        word, other_word = day.rng.permutation(CATEGORY_WORDS)[:2].tolist()
        day.update("category", "rename_category", id=key, word=word, other_word=other_word)


def _insert_customers(day: Day, ids: Ids) -> None:
    rows = draw_customers(day.rng, ids, day.early_instants(len(ids)))
    day.note("customer", "inserted", copy_rows(day.connection, "customer", rows))


def _insert_products(day: Day, ids: Ids) -> None:
    brands = day.connection.execute("select id, name from public.brand order by id").fetchall()
    rows = draw_products(
        day.rng,
        ids,
        day.early_instants(len(ids)),
        day.rng.choice(day.ids("company"), len(ids)),
        np.array(day.ids("category")),
        pl.DataFrame(brands, schema=["id", "name"], orient="row"),
    )
    day.note("product", "inserted", copy_rows(day.connection, "product", rows))
    stock_products(day, ids)
