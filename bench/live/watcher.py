"""A reader in a process of its own that measures when it first sees a complete order in mart.sales and sales_by_day."""

import sys
import time
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import psycopg

INTERVAL_SECONDS = 0.02
# An order that is not seen by then counts as this late.
PATIENCE_SECONDS = 60.0
REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Placed:
    """An order that the API has accepted: time of its 201, and the lines and amount that mart.sales has to show."""

    order_id: str
    lines: int
    amount: float
    answered_at: float


@dataclass
class Seen:
    """Seconds until each order was seen in mart.sales and in mart.sales_by_day, and the number of queries."""

    orders: list[float] = field(default_factory=list)
    aggregate: list[float] = field(default_factory=list)
    questions: int = 0


def watch(url: str, placed: Any, seen: Any) -> None:
    """Query every 20 ms for the orders in `placed` until it ends; puts a `Seen` into `seen`."""
    waiting: dict[str, Placed] = {}
    answered: list[float] = []
    found = Seen()
    is_over = False
    begun = reported = time.monotonic()
    reported_orders = 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set role dwh_reader")
        count_before = _orders_by_day(connection)
        while not is_over or waiting or len(found.aggregate) < len(answered):
            next_at = time.monotonic() + INTERVAL_SECONDS
            try:
                while (one := placed.get_nowait()) is not None:
                    waiting[one.order_id] = one
                    answered.append(one.answered_at)
                is_over = True
            except Empty:
                pass
            if waiting:
                _find(connection, waiting, found)
            _count(connection, count_before, answered, found)
            found.questions += 1
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                _report(reported - begun, answered, waiting, found, reported_orders)
                reported_orders = len(found.orders)
            time.sleep(max(next_at - time.monotonic(), 0))
    seen.put(found)


def percentile(values: list[float], share: float) -> float | None:
    """Compute a percentile of seconds, in milliseconds; None if there are no values."""
    if not values:
        return None
    seconds = sorted(values)[min(int(share * len(values)), len(values) - 1)]
    return round(1000 * min(seconds, PATIENCE_SECONDS), 1)


def _find(connection: psycopg.Connection, waiting: dict[str, Placed], found: Seen) -> None:
    """Query mart.sales for the orders in `waiting`, and move those that are complete to `found`."""
    rows = connection.execute(
        "select order_id, count(*), sum(net_amount) from mart.sales "
        "where source_system = 'shop' and order_id = any(%s) group by order_id",
        [list(waiting)],
    ).fetchall()
    now = time.time()
    for order_id, lines, amount in rows:
        one = waiting[order_id]
        if lines == one.lines and abs(float(amount) - one.amount) < 0.005:
            found.orders.append(now - one.answered_at)
            del waiting[order_id]
    for one in [one for one in waiting.values() if now - one.answered_at > PATIENCE_SECONDS]:
        found.orders.append(PATIENCE_SECONDS)
        del waiting[one.order_id]


def _count(connection: psycopg.Connection, before: int, answered: list[float], found: Seen) -> None:
    """Query the order count of mart.sales_by_day, which is taken to contain so many of the orders, oldest first."""
    count = _orders_by_day(connection) - before
    now = time.time()
    while len(found.aggregate) < min(count, len(answered)):
        found.aggregate.append(now - answered[len(found.aggregate)])
    while len(found.aggregate) < len(answered) and now - answered[len(found.aggregate)] > PATIENCE_SECONDS:
        found.aggregate.append(PATIENCE_SECONDS)


def _orders_by_day(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select coalesce(sum(order_count), 0) from mart.sales_by_day "
        "where source_system = 'shop' and ordered_date >= current_date - 1"
    ).fetchone()
    return int(row[0]) if row else 0


def _report(
    elapsed: float, answered: list[float], waiting: dict[str, Placed], found: Seen, reported_orders: int
) -> None:
    newest = found.orders[reported_orders:]
    sys.stdout.write(
        f"{elapsed:5.0f} s: {len(answered):,} orders placed, {len(waiting):,} waited for; of the last {len(newest):,} "
        f"p50 {percentile(newest, 0.5)} ms, p95 {percentile(newest, 0.95)} ms, p99 {percentile(newest, 0.99)} ms; "
        f"mart of the day p95 {percentile(found.aggregate[-len(newest) or None :], 0.95)} ms\n"
    )
    sys.stdout.flush()
