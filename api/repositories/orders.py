"""Read and write orders in the shop's tables, and read what a new order depends on: prices, promotion, stock."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from api.repositories.statements import statement


@dataclass(frozen=True, slots=True)
class Offer:
    """Prices of a product, and the center that ships it; None if the shop, or every center, does not have it."""

    price_default: Decimal | None
    price: Decimal | None
    currency: str | None
    distribution_center_id: int | None


@dataclass(frozen=True, slots=True)
class Market:
    """What a new order depends on at this moment, and the id that it gets."""

    order_id: int
    placed_at: str
    has_customer: bool
    has_payment_method: bool
    promotion_id: int | None
    discount_share: Decimal
    offers: Sequence[Offer]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a new order, as it is stored."""

    product_id: int
    distribution_center_id: int
    quantity: int
    price_default: Decimal
    price: Decimal
    discount: Decimal
    currency: str


class Orders:
    """Orders of the shop, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def read_market(
        self, customer_id: int, payment_method_id: int, product_ids: Sequence[int]
    ) -> Market:
        """Read prices, promotion and distribution centers for an order, one offer per product."""
        cursor = await self._connection.execute(
            statement("read_market"),
            {
                "customer_id": customer_id,
                "payment_method_id": payment_method_id,
                "product_ids": _array(product_ids),
            },
            prepare=True,
        )
        rows = await cursor.fetchall()
        order_id, placed_at, has_customer, has_payment_method, promotion_id, share, *_ = rows[0]
        return Market(
            order_id,
            placed_at,
            has_customer,
            has_payment_method,
            promotion_id,
            share or Decimal(0),
            [Offer(*row[6:]) for row in rows],
        )

    async def insert(
        self, market: Market, customer_id: int, payment_method_id: int, lines: Sequence[Line]
    ) -> None:
        """Store a new order with its lines."""
        await self._connection.execute(
            statement("insert_order"),
            {
                "order_id": market.order_id,
                "customer_id": customer_id,
                "payment_method_id": payment_method_id,
                "running_promotion_id": market.promotion_id,
                "product_ids": _array([line.product_id for line in lines]),
                "distribution_center_ids": _array([line.distribution_center_id for line in lines]),
                "quantities": _array([line.quantity for line in lines]),
                "unit_prices_default": _array([line.price_default for line in lines]),
                "unit_prices": _array([line.price for line in lines]),
                "discount_amounts": _array([line.discount for line in lines]),
            },
            prepare=True,
        )

    async def read(self, order_id: int) -> list[DictRow]:
        """Read an order, a row per line; no row if there is no such order."""
        return await self._rows("read_order", order_id=order_id)

    async def page(self, **filters: Any) -> list[DictRow]:
        """Read orders, newest first, by the parameters of list_orders.sql."""
        return await self._rows("list_orders", **filters)

    async def lock(self, order_id: int) -> str | None:
        """Lock an order until the transaction ends; returns its status, None if there is no such order."""
        rows = await self._rows("lock_order", order_id=order_id)
        return rows[0]["status"] if rows else None

    async def line_statuses(self, order_id: int) -> dict[int, str | None]:
        """Status of each line by its number."""
        rows = await self._rows("read_line_statuses", order_id=order_id)
        return {row["line_number"]: row["status"] for row in rows}

    async def set_status(self, order_id: int, status: str) -> None:
        """Give an order and its lines the next status."""
        await self._connection.execute(
            statement("set_order_status"), {"order_id": order_id, "status": status}
        )

    async def return_lines(self, order_id: int, line_numbers: Sequence[int]) -> None:
        """Mark complete lines of an order as returned."""
        await self._connection.execute(
            statement("return_lines"), {"order_id": order_id, "line_numbers": list(line_numbers)}
        )

    async def _rows(self, name: str, **parameters: Any) -> list[DictRow]:
        # Not prepared: PostgreSQL plans with the actual values, and drops filters that are null from the plan.
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement(name), parameters, prepare=False)
            return await cursor.fetchall()


def _array(numbers: Sequence[int | Decimal]) -> str:
    """Format a PostgreSQL array as text: psycopg takes ten times as long to find the type of a list and write it."""
    return f"{{{','.join(map(str, numbers))}}}"
