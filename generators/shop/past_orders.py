"""The orders of a generated history: drawn and copied chunk by chunk."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from psycopg import Connection

from generators.shop import orders as drawn
from generators.shop.catalog import PAYMENT_METHODS, PAYMENT_SHARES, Cents
from generators.shop.load import Progress, copy_rows
from generators.shop.people import Ids, Instants
from generators.shop.stock import PastSales

CHUNK = 100_000  # orders at a time: bounds the memory; another size draws other rows from the same seed
CUSTOMER_DEFECTS = ("birth_date", "document_number", "name")


@dataclass(frozen=True)
class Assortment:
    """Products for past orders: since when they are on sale, and prices in cents before and after their change."""

    created_at: Instants
    changed_at: Instants
    default_before: Cents
    before: Cents
    default_now: Cents
    now: Cents


class PastOrders:
    """Orders of two years; adds what they sell to `sales`, and counts their defects."""

    def __init__(
        self,
        seed: int,
        count: int,
        since: np.datetime64,
        until: np.datetime64,
        people: pl.DataFrame,
        assortment: Assortment,
        promotions: pl.DataFrame,
        sales: PastSales,
        defects: float,
    ) -> None:
        rng = np.random.default_rng([seed, 5])
        self.seed, self.count, self.since, self.until = seed, count, since, until
        self.assortment, self.sales = assortment, sales
        self.promotion_shares = promotions["discount_share"].to_numpy()
        self.customer_created_at = people["created_at"].to_numpy()
        self.bad_customers = people.filter(pl.any_horizontal(pl.col(*CUSTOMER_DEFECTS).is_null()))[
            "id"
        ].to_numpy()
        self.ordered_at = drawn.draw_times(rng, count, since, until)
        # a few customers buy most and a few products sell most; some customers never buy, some products never sell
        self.customer_weights = rng.lognormal(0, 1.1, people.height) * (rng.random(people.height) > 0.08)
        ranks = rng.permutation(len(assortment.now)) + 1
        self.product_weights = 1 / (ranks + 4) ** 0.95 * (rng.random(len(ranks)) > 0.05)
        self.spoiled = np.sort(rng.choice(count, round(count * defects), replace=False))
        self.defects = {
            f"defects_item_{rule}": 0 for rule in ("price", "discount", "total", "any", "customer")
        }

    def copy(self, connection: Connection, report: Progress) -> dict[str, int]:
        """Draw and copy all orders and their lines; returns the number of rows by table."""
        counts = {"sales_order": 0, "order_item": 0}
        for number, start in enumerate(range(0, self.count, CHUNK)):
            rng = np.random.default_rng([self.seed, 6, number])
            order, item = self._chunk(rng, start, min(start + CHUNK, self.count))
            counts["sales_order"] += copy_rows(connection, "sales_order", order)
            counts["order_item"] += copy_rows(connection, "order_item", item)
            report("sales_order", counts["sales_order"], self.count)
        return counts

    def _chunk(self, rng: np.random.Generator, start: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        ordered_at = self.ordered_at[start:stop]
        ids = np.arange(start, stop) + 1
        customer_counts = np.searchsorted(self.customer_created_at, ordered_at, side="right")
        customer = drawn.draw_popular(rng, self.customer_weights, customer_counts) + 1
        status, changed_at = drawn.draw_endings(rng, ordered_at, self.until)

        counts = drawn.draw_line_counts(rng, stop - start)
        line_at = np.repeat(ordered_at, counts)
        lines, product, promotion = self._lines(rng, counts, line_at)
        drawn.spoil_lines(lines, self.spoiled[(self.spoiled >= start) & (self.spoiled < stop)] - start)
        self._count_defects(lines, customer)
        line_status, returned_at, line_changed_at = drawn.draw_line_endings(
            rng, status[lines.order], changed_at[lines.order], line_at, self.until
        )
        stock = self.sales.choose_rows(rng, product)
        self.sales.add(stock, lines.quantity, line_status, line_at)
        statuses = pl.Series(drawn.STATUSES)
        order = pl.DataFrame(
            {
                "id": ids,
                "customer_id": customer,
                "payment_method_id": rng.choice(len(PAYMENT_METHODS), len(ids), p=PAYMENT_SHARES) + 1,
                "status": statuses.gather(status),
                "ordered_at": ordered_at,
                "created_at": ordered_at,
                "updated_at": changed_at,
            }
        )
        item = pl.DataFrame(
            {
                "sales_order_id": ids[lines.order],
                "line_number": lines.number,
                "product_id": product + 1,
                "promotion_id": promotion + 1,
                "distribution_center_id": self.sales.stock.center[stock],
                "quantity": lines.quantity,
                "unit_price_default": lines.price_default / 100,
                "unit_price": lines.price / 100,
                "discount_amount": lines.discount / 100,
                "status": statuses.gather(line_status),
                "returned_at": returned_at,
                "created_at": line_at,
                "updated_at": line_changed_at,
            }
        ).with_columns(pl.when(pl.col("promotion_id") > 0).then(pl.col("promotion_id")))
        return order, item

    def _lines(
        self, rng: np.random.Generator, counts: Ids, line_at: Instants
    ) -> tuple[drawn.Lines, Ids, Ids]:
        on_sale = np.searchsorted(self.assortment.created_at, line_at, side="right")
        product = drawn.draw_popular(rng, self.product_weights, on_sale)
        old = line_at < self.assortment.changed_at[product]
        default, price = (
            np.where(old, before[product], now[product])
            for before, now in (
                (self.assortment.default_before, self.assortment.default_now),
                (self.assortment.before, self.assortment.now),
            )
        )
        campaign = drawn.campaign_at(line_at, self.since)
        promotion = np.where(rng.random(len(product)) < 0.4, campaign, -1)
        share = np.where(promotion >= 0, self.promotion_shares[promotion], 0.0)
        return drawn.draw_lines(rng, counts, default, price, share), product, promotion

    def _count_defects(self, lines: drawn.Lines, customer: Ids) -> None:
        broken = drawn.broken_rules(lines)
        broken["any"] = broken["price"] | broken["discount"] | broken["total"]
        broken["customer"] = np.isin(customer, self.bad_customers)[lines.order]
        for rule, lines_broken in broken.items():
            self.defects[f"defects_item_{rule}"] += int(lines_broken.sum())
