"""A reader of the star in a process of its own: when it first sees an order whole, and in the mart of the day."""

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
    """An order that the API has accepted: when its 201 came, and what mart.sales has to show of it."""

    order_id: str
    lines: int
    amount: float
    answered_at: float


@dataclass
class Seen:
    """Seconds after which each order was seen, in mart.sales and in mart.sales_by_day, and how often was asked."""

    orders: list[float] = field(default_factory=list)
    aggregate: list[float] = field(default_factory=list)
    questions: int = 0


def watch(url: str, placed: Any, seen: Any) -> None:
    """Ask every 20 ms for orders from `placed` until it ends; put what was `Seen` into `seen`."""
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
    """Of these seconds, in milliseconds; None where there are none."""
    if not values:
        return None
    seconds = sorted(values)[min(int(share * len(values)), len(values) - 1)]
    return round(1000 * min(seconds, PATIENCE_SECONDS), 1)


def _find(connection: psycopg.Connection, waiting: dict[str, Placed], found: Seen) -> None:
    """Ask for the orders that are waited for."""
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
    """Ask how many orders the mart of the day counts: so many of those that were placed, in their order, it has."""
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
