"""Orders as clients see them: dictionaries of JSON types, with amounts as text."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from api.models import OrderRequest
from api.repositories.orders import Line, Market

View = dict[str, Any]


def new_order(request: OrderRequest, market: Market, lines: Sequence[Line]) -> View:
    """Build the JSON of an order that has just been placed."""
    return {
        "id": market.order_id,
        "customerId": request.customer_id,
        "payment_id": request.payment_id,
        "status": "pending",
        "orderedAt": market.placed_at,
        "updatedAt": market.placed_at,
        "items": [
            {
                "lineNumber": number,
                "productId": line.product_id,
                "quantity": line.quantity,
                "status": "pending",
                "unitPrice": format_amount(line.price),
                "discountAmount": format_amount(line.discount),
                "amount": format_amount(line.price * line.quantity - line.discount),
                "currency": line.currency,
                "promotionId": market.promotion_id,
                "distributionCenterId": line.distribution_center_id,
                "returnedAt": None,
            }
            for number, line in enumerate(lines, start=1)
        ],
    }


def summary(row: View) -> View:
    """Build the JSON of a stored order without its lines."""
    return {
        "id": row["id"],
        "customerId": row["customer_id"],
        "payment_id": row["payment_method_id"],
        "status": row["status"],
        "orderedAt": row["ordered_at"],
        "updatedAt": row["updated_at"],
    }


def order(rows: Sequence[View]) -> View:
    """Build the JSON of a stored order from a row per line."""
    return summary(rows[0]) | {
        "items": [
            {
                "lineNumber": row["line_number"],
                "productId": row["product_id"],
                "quantity": row["quantity"],
                "status": row["line_status"],
                "unitPrice": format_amount(row["unit_price"]),
                "discountAmount": format_amount(row["discount_amount"]),
                "amount": format_amount(row["amount"]),
                "currency": row["currency"],
                "promotionId": row["promotion_id"],
                "distributionCenterId": row["distribution_center_id"],
                "returnedAt": row["returned_at"],
            }
            for row in rows
            if row["line_number"] is not None
        ]
    }


def format_amount(amount: Decimal | None) -> str | None:
    """Format an amount as text with two decimal places; never a float."""
    return None if amount is None else f"{amount:.2f}"
