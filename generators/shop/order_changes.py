"""Changes of a simulated day to orders: status changes, returns, deletions and new orders."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from generators.errors import GeneratorError
from generators.shop import orders as drawn
from generators.shop.day import Day
from generators.shop.load import copy_rows
from generators.shop.people import Ids, Instants

NEXT = {
    "pending": (("processing", 0.9), ("cancelled", 0.1)),
    "processing": (("shipped", 0.95), ("cancelled", 0.05)),
    "shipped": (("complete", 1.0),),
}
RECENT = 0.8  # returned orders are among the youngest fifth


@dataclass(frozen=True)
class Market:
    """Rows that new orders can refer to, read once a day; a product has several rows if it is more likely to sell."""

    customers: pl.DataFrame
    products: pl.DataFrame
    promotions: pl.DataFrame
    payment_methods: list[int]


def plan_progress(day: Day, budget: int) -> list[tuple[int, str]]:
    """Choose open orders and their next status, so that about `budget` rows change, lines included."""
    waiting = day.execute("open_orders").fetchall()
    moves: list[tuple[int, str]] = []
    for position in day.rng.permutation(len(waiting)).tolist():
        order_id, status, line_count = waiting[position]
        if budget <= 0:
            break
        if order_id not in day.touched["sales_order"]:
            choices, shares = zip(*NEXT[status], strict=True)
            moves.append((order_id, str(day.rng.choice(choices, p=shares))))
            budget -= 1 + line_count
    day.take("sales_order", [order_id for order_id, _ in moves])
    return sorted(moves)


def move_orders(day: Day, moves: Sequence[tuple[int, str]]) -> None:
    """Set the next status of orders and their lines."""
    ids, statuses = [order_id for order_id, _ in moves], [status for _, status in moves]
    day.update("sales_order", "progress_orders", ids=ids, statuses=statuses)
    day.change_lines("updated", "progress_lines", ids=ids, statuses=statuses, moment=day.closing)


def return_orders(day: Day, count: int) -> None:
    """Return recent orders with all their lines."""
    ids = day.sample("sales_order", count, "t.status = 'complete'", since_share=RECENT)
    move_orders(day, [(order_id, "returned") for order_id in ids])


def return_lines(day: Day, count: int) -> None:
    """Return single lines of recent orders; the orders stay complete."""
    ids = day.sample("sales_order", count, "t.status = 'complete'", since_share=RECENT)
    day.update("order_item", "return_lines", ids=ids, moment=day.closing)


def delete_orders(day: Day, count: int) -> None:
    """Delete orders, whatever their age, with all their lines."""
    ids = day.sample("sales_order", day.deletable("sales_order", count))
    day.change_lines("deleted", "delete_order_items", ids=ids)
    day.delete("sales_order", "id", ids)


def delete_lines(day: Day, count: int) -> None:
    """Delete single lines of orders that have others."""
    second = "exists (select from public.order_item as i where i.sales_order_id = t.id and i.line_number = 2)"
    ids = day.sample("sales_order", day.deletable("sales_order", count), second)
    day.change_lines("deleted", "delete_lines", ids=ids)


def plan_orders(day: Day, budget: int) -> Ids:
    """Draw line counts of new orders that amount to `budget` new rows, lines included."""
    counts = drawn.draw_line_counts(day.rng, max(budget, 0))
    counts = counts[: int(np.searchsorted(np.cumsum(counts + 1), budget, side="right"))]
    left = budget - int((counts + 1).sum())
    if left >= 2:
        return np.append(counts, left - 1)
    if left == 1 and len(counts):
        counts[-1] += 1
    return counts


def open_market(day: Day) -> Market:
    """Read what new orders can refer to: some customers, products that sold lately, and some others."""
    instant, whole = pl.Datetime("us"), pl.Int64()
    market = Market(
        customers=day.read(
            "market_customers", {"id": whole}, drawn=day.draw_ids("customer", 3000), morning=day.morning
        ),
        products=day.read(
            "market_products",
            dict.fromkeys(("id", "price_default", "price", "distribution_center_id"), whole),
            drawn=day.draw_ids("product", 600),
            morning=day.morning,
        ),
        promotions=day.read(
            "market_promotions",
            {"id": whole, "discount_share": pl.Float64(), "starts_at": instant, "ends_at": instant},
            opening=day.opening,
            closing=day.closing,
        ),
        payment_methods=day.ids("payment_method"),
    )
    if market.customers.is_empty() or market.products.is_empty():
        raise GeneratorError(
            f"Nobody could order anything on {day.opening}: the shop's customers or products are younger.",
            "Simulate a later day.",
        )
    return market


def place_orders(day: Day, market: Market, line_counts: Ids, ordered_at: Instants, spoiled: Ids) -> None:
    """Insert an order for each line count and time; those at the positions in `spoiled` break a rule."""
    rng = day.rng
    ids = day.new_ids("sales_order", len(line_counts))
    orders = pl.DataFrame(
        {
            "id": ids,
            "customer_id": market.customers["id"].gather(rng.integers(0, market.customers.height, len(ids))),
            "payment_method_id": rng.choice(market.payment_methods, len(ids)),
            "ordered_at": ordered_at,
            "created_at": ordered_at,
        }
    )
    line_at = np.repeat(ordered_at, line_counts)
    promotion, share = _promotions(rng, market.promotions, line_at)
    products = market.products[rng.integers(0, market.products.height, len(line_at))]
    lines = drawn.draw_lines(
        rng, line_counts, products["price_default"].to_numpy(), products["price"].to_numpy().copy(), share
    )
    drawn.spoil_lines(lines, spoiled)
    items = pl.DataFrame(
        {
            "sales_order_id": ids[lines.order],
            "line_number": lines.number,
            "product_id": products["id"],
            "promotion_id": promotion,
            "distribution_center_id": products["distribution_center_id"],
            "quantity": lines.quantity,
            "unit_price_default": lines.price_default / 100,
            "unit_price": lines.price / 100,
            "discount_amount": lines.discount / 100,
            "status": pl.repeat("pending", len(line_at), eager=True),
            "created_at": line_at,
        }
    )
    day.note("sales_order", "inserted", copy_rows(day.connection, "sales_order", orders))
    day.note("order_item", "inserted", copy_rows(day.connection, "order_item", items))
    sold = items.select("product_id", "distribution_center_id", "quantity", event=pl.lit("placed"))
    day.lines += sold.rows()


def _promotions(
    rng: np.random.Generator, promotions: pl.DataFrame, line_at: Instants
) -> tuple[pl.Series, drawn.Share]:
    position = np.full(len(line_at), -1)
    for row, (starts_at, ends_at) in enumerate(promotions.select("starts_at", "ends_at").iter_rows()):
        running = (line_at >= np.datetime64(starts_at)) & (line_at < np.datetime64(ends_at))
        position = np.where(running & (rng.random(len(line_at)) < 0.4), row, position)
    chosen = pl.Series(position).replace(-1, None)
    return promotions["id"].gather(chosen), promotions["discount_share"].gather(chosen).fill_null(
        0
    ).to_numpy()
