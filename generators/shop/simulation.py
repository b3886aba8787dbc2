"""Simulate one day of normal operation of a shop: its changes, in many transactions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from psycopg import Connection, sql

from generators.errors import GeneratorError
from generators.shop import master_changes as master
from generators.shop import order_changes as orders
from generators.shop.database import connect
from generators.shop.day import Day
from generators.shop.load import TABLES, Progress
from generators.shop.stock import book_day

BATCH = 100  # orders per transaction
# New orders and their lines are this share of a day's changes; the other shares are in _run.
ORDERS_SHARE = 0.465
PACE_DAYS = 28
NEEDED = tuple(table for table in TABLES if table not in ("promotion", "sales_order", "order_item"))


def simulate_day(
    url: str,
    *,
    changes: int | None = None,
    seed: int,
    day: datetime | None = None,
    defects: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Change so many rows of a shop, as a day would: registrations, orders, prices, moves, deletions.

    `changes` defaults to a number that gives as many new orders as an average day of the four weeks before. All changes
    lie in the 24 hours from `day` on (default: from the last order on), but never in the future: people move and prices
    change in the morning, then orders come in. At the end the shop books its stock and refreshes the counters of the
    products, which `changes` does not include. The same seed on the same shop makes the same changes.

    The result counts rows as <table>_inserted, _updated and _deleted, each row once. `defects` is the share of new
    orders with a line that breaks a rule, counted as defects_order.
    """
    if changes is not None and changes < 0:
        raise GeneratorError(f"The number of changes is {changes}.", "Ask for 0 or more.")
    if not 0 <= defects <= 1:
        raise GeneratorError(f"The share of defects is {defects}.", "Ask for a share between 0 and 1.")
    with connect(url, autocommit=True) as connection:
        _check_not_empty(connection)
        opening, closing = _hours(connection, day)
        if changes is None:
            changes = _usual_changes(connection, opening, closing)
        today = Day(connection, np.random.default_rng([seed, changes]), opening, closing)
        spoiled = _run(today, changes, defects, progress or (lambda step, done, total: None))
    return dict(today.counts) | {"defects_order": spoiled}


def _run(day: Day, changes: int, defects: float, report: Progress) -> int:
    def share(part: float) -> int:
        return round(changes * part)

    # deletions come first, so that no later change refers to a row that is deleted
    by_morning: tuple[tuple[str, Callable[[], None]], ...] = (
        ("keys used again", lambda: master.bring_back(day, share(0.002))),
        ("deleted order lines", lambda: orders.delete_lines(day, share(0.015))),
        ("deleted orders", lambda: orders.delete_orders(day, share(0.01))),
        ("deleted customers and products", lambda: master.delete_strangers(day, share(0.0075))),
        ("new customers", lambda: master.register_customers(day, share(0.05))),
        ("new products", lambda: master.add_products(day, share(0.03))),
        ("prices", lambda: master.change_prices(day, share(0.08))),
        ("moves", lambda: master.move_customers(day, share(0.04))),
        ("loyalty tiers", lambda: master.change_tiers(day, share(0.03))),
        ("logins", lambda: master.change_logins(day, share(0.04))),
        ("completed registrations", lambda: master.complete_registrations(day, share(0.005))),
        ("company names", lambda: master.rename_companies(day, share(0.005))),
        ("category names", lambda: master.rename_categories(day, share(0.0005))),
    )
    by_evening: tuple[tuple[str, Callable[[], None]], ...] = (
        ("returned orders", lambda: orders.return_orders(day, share(0.005))),
        ("returned lines", lambda: orders.return_lines(day, share(0.01))),
    )
    for moment, steps in ((day.morning, by_morning), (day.closing, by_evening)):
        for name, step in steps:
            with day.transaction(moment):
                step()
            report(name, day.counts.total(), changes)

    evening = day.closing
    with day.transaction(evening):
        moves = orders.plan_progress(day, share(0.2))
    for start in range(0, len(moves), BATCH):
        with day.transaction(evening):
            orders.move_orders(day, moves[start : start + BATCH])
        report("order status", day.counts.total(), changes)

    with day.transaction(evening):
        line_counts = orders.plan_orders(day, changes - day.counts.total())
        market = orders.open_market(day)
    ordered_at = day.order_instants(len(line_counts))
    spoiled = np.sort(day.rng.choice(len(line_counts), round(len(line_counts) * defects), replace=False))
    for start in range(0, len(line_counts), BATCH):
        stop = start + BATCH
        with day.transaction(evening):
            batch = spoiled[(spoiled >= start) & (spoiled < stop)] - start
            orders.place_orders(day, market, line_counts[start:stop], ordered_at[start:stop], batch)
        report("new orders", day.counts.total(), changes)
    with day.transaction(evening):
        book_day(day)
    report("stock and counters", day.counts.total(), day.counts.total())
    return len(spoiled)


def _check_not_empty(connection: Connection) -> None:
    for table in NEEDED:
        if not connection.execute(
            sql.SQL("select from public.{} limit 1").format(sql.Identifier(table))
        ).rowcount:
            raise GeneratorError(
                f"The shop has no rows in {table}: there is no day to simulate.",
                "Generate its history first: `dwh generate shop`.",
            )


def _usual_changes(connection: Connection, opening: datetime, closing: datetime) -> int:
    """Return the number of changes of a day with as many new orders and lines as the days before had on average."""
    row = connection.execute(
        """
        select count(distinct o.id) + count(i.line_number)
        from public.sales_order as o
        left join public.order_item as i on o.id = i.sales_order_id
        where o.ordered_at > %(opening)s - make_interval(days => %(days)s) and o.ordered_at <= %(opening)s
        """,
        {"opening": opening, "days": PACE_DAYS},
    ).fetchone()
    assert row
    new_rows = int(row[0])
    return round(new_rows / PACE_DAYS * ((closing - opening) / timedelta(days=1)) / ORDERS_SHARE)


def _hours(connection: Connection, day: datetime | None) -> tuple[datetime, datetime]:
    row = connection.execute("select now(), max(ordered_at) from public.sales_order").fetchone()
    assert row
    now, last = row
    if day is not None:
        if day.tzinfo is None:
            raise GeneratorError(f"The day {day} has no time zone.", "Add one, as in 2026-01-31T00:00+00:00.")
        if day >= now:
            raise GeneratorError(f"The day {day} lies in the future.", "Simulate a day that has begun.")
    opening = (day or last or now - timedelta(days=1)).astimezone(UTC)
    closing = min(opening + timedelta(days=1), now.astimezone(UTC))
    # if the last order was placed just now, the day lasts one second
    return min(opening, closing - timedelta(seconds=1)), closing
