"""Show one order, or list them page by page, newest first."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from psycopg import DataError

from api.errors import Fault, InvalidOrder, UnknownOrder
from api.models import MAX_ID
from api.repositories.unit_of_work import Shop
from api.services import view

# The content of a cursor: a time as PostgreSQL writes it, infinity and BC included, and an id.
_POSITION = re.compile(r"(-?infinity|\d{4,6}-[\d :.-]{14,21}\+00(?: BC)?)/([1-9]\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class Filters:
    """Which orders are listed; None: all."""

    customer_id: int | None = None
    status: str | None = None
    since: str | None = None
    until: str | None = None


async def show_order(shop: Shop, order_id: int) -> view.View:
    """Read an order with its lines.

    Raises:
        UnknownOrder: there is no such order.
    """
    rows = await shop.run(lambda unit: unit.orders.read(order_id))
    if not rows:
        raise UnknownOrder(order_id)
    return view.order(rows)


async def list_orders(shop: Shop, filters: Filters, limit: int, cursor: str | None) -> view.View:
    """Read a page of orders, newest first: by the time at which they were placed, then by id.

    Raises:
        InvalidOrder: the cursor is not one of this API, or a time is not valid.
    """
    before, before_id = _position(cursor) if cursor is not None else (None, None)
    try:
        rows = await shop.run(
            lambda unit: unit.orders.page(
                since=filters.since,
                until=filters.until,
                customer_id=filters.customer_id,
                status=filters.status,
                before=before,
                before_id=before_id,
                rows=limit + 1,
            )
        )
    except DataError:
        raise InvalidOrder([Fault("from, to, cursor", "One of them is no time of the calendar.")]) from None
    page = rows[:limit]
    next_cursor = _cursor(page[-1]["placed_at"], page[-1]["id"]) if len(rows) > limit else None
    return {"orders": [view.summary(row) for row in page], "nextCursor": next_cursor}


def _cursor(placed_at: str, order_id: int) -> str:
    return urlsafe_b64encode(f"{placed_at}/{order_id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[str, int]:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        text = ""
    match = _POSITION.fullmatch(text)
    if match is None or int(match[2]) > MAX_ID:
        raise InvalidOrder([Fault("cursor", "It is not a cursor of this API: use nextCursor of a page.")])
    return match[1], int(match[2])
