"""Inventory and product counters: units in stock per distribution center, units sold and reviews per product."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from generators.shop.day import Day
from generators.shop.load import copy_rows
from generators.shop.orders import CANCELLED, COMPLETE
from generators.shop.people import Ids, Instants

# share of the products that one, two, three, four distribution centers stock
CENTER_COUNT_SHARES = (0.25, 0.35, 0.25, 0.15)
LOT = 24  # units; deliveries come in whole lots
REORDER_POINT = 10  # units; below it a delivery is on its way
COVER_DAYS = 20  # a delivery covers the sales of so many days like this one
ON_TIME_SHARE = 0.5  # of the deliveries arrive on the day on which stock falls below the reorder point
OUT_OF_STOCK_SHARE = 0.03
REVIEW_SHARE = 0.1  # of the completed order lines are reviewed
STARS_ABOVE_ONE, SATISFACTION = 4, 0.8  # reviews have 1 to 5 stars, 4.2 on average


@dataclass(frozen=True)
class Stock:
    """Rows of inventory, product by product; `first` and `count` are the position and number of each product's rows."""

    product: Ids
    center: Ids
    first: Ids
    count: Ids


def draw_stock(rng: np.random.Generator, products: Ids, centers: Ids) -> Stock:
    """Draw which distribution centers stock each product: neighbours in the list of centers."""
    choices = np.arange(1, len(CENTER_COUNT_SHARES) + 1)
    count = np.minimum(rng.choice(choices, len(products), p=CENTER_COUNT_SHARES), len(centers))
    first = np.cumsum(count) - count
    place = np.arange(count.sum()) - np.repeat(first - rng.integers(0, len(centers), len(products)), count)
    return Stock(np.repeat(products, count), centers[place % len(centers)], first, count)


class PastSales:
    """Sales of the orders of a generated history, added up per row of inventory."""

    def __init__(self, stock: Stock, on_sale_since: Instants) -> None:
        self.stock = stock
        self.sold, self.completed = np.zeros((2, len(stock.product)), np.int64)
        self.last_sold_at = np.repeat(on_sale_since, stock.count)

    def choose_rows(self, rng: np.random.Generator, product: Ids) -> Ids:
        """For each order line, draw a row of inventory of the product at this position."""
        place = (rng.random(len(product)) * self.stock.count[product]).astype(np.int64)
        return self.stock.first[product] + place

    def add(self, row: Ids, quantity: Ids, status: Ids, sold_at: Instants) -> None:
        """Add order lines, in order of time, that sold from these rows of inventory."""
        rows = len(self.sold)
        placed = status != CANCELLED
        self.sold += np.bincount(row[placed], quantity[placed], rows).astype(np.int64)
        self.completed += np.bincount(row[status == COMPLETE], minlength=rows)
        self.last_sold_at[row] = sold_at

    def counters(
        self, rng: np.random.Generator, changed_at: Instants, until: np.datetime64
    ) -> dict[str, pl.Series]:
        """Derive the columns of product that depend on sales, updated_at included."""
        first = self.stock.first
        sold, completed = np.add.reduceat(self.sold, first), np.add.reduceat(self.completed, first)
        reviews = rng.binomial(completed, REVIEW_SHARE)
        satisfaction = rng.beta(10 * SATISFACTION, 10 * (1 - SATISFACTION), len(reviews))
        stars = reviews + rng.binomial(STARS_ABOVE_ONE * reviews, satisfaction)
        counted_at = np.maximum.reduceat(self._booked_at(until), first)
        return {
            "rating_average": pl.Series(stars) / pl.Series(reviews).replace(0, None),
            "review_count": pl.Series(reviews),
            "sold_count": pl.Series(sold),
            "updated_at": pl.Series(np.where(sold > 0, np.maximum(changed_at, counted_at), changed_at)),
        }

    def inventory(self, rng: np.random.Generator, since: np.datetime64, until: np.datetime64) -> pl.DataFrame:
        """Draw the stock at the end of the history: enough for some days of average sales, and sometimes nothing."""
        rows = len(self.sold)
        cover = self.sold / ((until - since) / np.timedelta64(1, "D")) * COVER_DAYS * rng.uniform(0, 2, rows)
        quantity = rng.integers(0, 2 * LOT, rows) + cover.astype(np.int64)
        return pl.DataFrame(
            {
                "product_id": self.stock.product,
                "distribution_center_id": self.stock.center,
                "quantity": np.where(rng.random(rows) < OUT_OF_STOCK_SHARE, 0, quantity),
                "updated_at": self._booked_at(until),
            },
        )

    def _booked_at(self, until: np.datetime64) -> Instants:
        midnight = (self.last_sold_at.astype("datetime64[D]") + 1).astype("datetime64[us]")
        booked_at: Instants = np.minimum(midnight, until)
        return booked_at


def stock_products(day: Day, products: Ids) -> None:
    """Give new products their first delivery."""
    stock = draw_stock(day.rng, products, np.array(day.ids("distribution_center")))
    rows = pl.DataFrame(
        {
            "product_id": stock.product,
            "distribution_center_id": stock.center,
            "quantity": LOT * day.rng.integers(1, 4, len(stock.product)),
        }
    )
    day.take("inventory", products.tolist())
    day.note("inventory", "inserted", copy_rows(day.connection, "inventory", rows))


def book_day(day: Day) -> None:
    """Book the day's order lines: update the stock of the distribution centers, and the counters of the products."""
    quantity, event = pl.col("quantity"), pl.col("event")
    placed = pl.when(event == "placed").then(quantity)
    lines = (
        pl.DataFrame(
            day.lines,
            {
                "product_id": pl.Int64,
                "distribution_center_id": pl.Int64,
                "quantity": pl.Int64,
                "event": pl.String,
            },
            orient="row",
        )
        .drop_nulls("product_id")
        .with_columns(
            taken=placed.when(event == "cancelled").then(-quantity).otherwise(0),
            sold=placed.when(event.is_in(["cancelled", "deleted"])).then(-quantity).otherwise(0),
            completed=event == "complete",
        )
    )
    _move_stock(day, lines)
    _refresh_counters(day, lines)


def _move_stock(day: Day, lines: pl.DataFrame) -> None:
    key = ["product_id", "distribution_center_id"]
    moves = lines.group_by(key).agg(pl.col("taken").sum()).filter(pl.col("taken") != 0).sort(key)
    moved = day.execute(
        "move_stock",
        product_ids=moves["product_id"].to_list(),
        distribution_center_ids=moves["distribution_center_id"].to_list(),
        taken=moves["taken"].to_list(),
        are_on_time=(day.rng.random(moves.height) < ON_TIME_SHARE).tolist(),
        lot=LOT,
        reorder_point=REORDER_POINT,
        cover_days=COVER_DAYS,
    )
    # rows of products that are new today were counted as inserted: each row counts once
    day.note("inventory", "updated", sum(key not in day.touched["inventory"] for (key,) in moved))


def _refresh_counters(day: Day, lines: pl.DataFrame) -> None:
    products = lines.group_by("product_id").agg(pl.col("sold", "completed").sum()).sort("product_id")
    reviews = day.rng.binomial(products["completed"].to_numpy(), REVIEW_SHARE)
    stars = reviews + day.rng.binomial(STARS_ABOVE_ONE * reviews, SATISFACTION)
    products = products.with_columns(review_count=reviews, stars=stars).filter(
        (pl.col("sold") != 0) | (pl.col("review_count") > 0)
    )
    refreshed = day.execute(
        "refresh_counters",
        ids=products["product_id"].to_list(),
        sold=products["sold"].to_list(),
        review_counts=products["review_count"].to_list(),
        stars=products["stars"].to_list(),
    )
    # a product that is new today or whose price changed was counted before: each row counts once
    day.note("product", "updated", sum(key not in day.touched["product"] for (key,) in refreshed))
