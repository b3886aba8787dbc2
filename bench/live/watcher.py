"""A reader of the star in a process of its own: when it first sees an order whole, and in the mart of the day."""

import time
from dataclasses import dataclass
from queue import Empty
from typing import Any

import psycopg

INTERVAL_SECONDS = 0.02
# An order that is not seen by then counts as this late.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Placed:
    """An order that the API has accepted: when its 201 came, and what mart.sales has to show of it."""

    order_id: str
    lines: int
    amount: float
    answered_at: float


def watch(url: str, placed: Any, seen: Any) -> None:
    """Ask every 20 ms for orders from `placed` until it ends; put the seconds of each into `seen`, in two lists."""
    waiting: dict[str, Placed] = {}
    answered: list[float] = []
    orders: list[float] = []
    aggregate: list[float] = []
    is_over = False
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set role dwh_reader")
        count_before = _orders_by_day(connection)
        while not is_over or waiting or len(aggregate) < len(answered):
            try:
                while (one := placed.get_nowait()) is not None:
                    waiting[one.order_id] = one
                    answered.append(one.answered_at)
                is_over = True
            except Empty:
                pass
            if waiting:
                rows = connection.execute(
                    "select order_id, count(*), sum(net_amount) from mart.sales "
                    "where source_system = 'shop' and order_id = any(%s) group by order_id",
                    [list(waiting)],
                ).fetchall()
                now = time.time()
                for order_id, lines, amount in rows:
                    one = waiting[order_id]
                    if lines == one.lines and abs(float(amount) - one.amount) < 0.005:
                        orders.append(now - one.answered_at)
                        del waiting[order_id]
            count = _orders_by_day(connection) - count_before
            now = time.time()
            while len(aggregate) < min(count, len(answered)):
                aggregate.append(now - answered[len(aggregate)])
            for one in [one for one in waiting.values() if now - one.answered_at > PATIENCE_SECONDS]:
                orders.append(PATIENCE_SECONDS)
                del waiting[one.order_id]
            if len(aggregate) < len(answered) and now - answered[len(aggregate)] > PATIENCE_SECONDS:
                aggregate.append(PATIENCE_SECONDS)
            time.sleep(INTERVAL_SECONDS)
    seen.put(("orders", orders))
    seen.put(("aggregate", aggregate))


def _orders_by_day(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select coalesce(sum(order_count), 0) from mart.sales_by_day where ordered_date >= current_date - 1"
    ).fetchone()
    return int(row[0]) if row else 0
