"""What a line costs, by the rules of the shop: today's prices, and the running promotion's discount."""

from decimal import ROUND_DOWN, Decimal

CENT = Decimal("0.01")
# Amounts of the shop have 14 digits, two of them behind the point.
LARGEST_AMOUNT = Decimal("999999999999.99")
# A discount is at most this share of what a line costs above the base price of one unit.
DISCOUNTED_MARGIN = Decimal("0.8")


def discount_of(price_default: Decimal, price: Decimal, quantity: int, share: Decimal) -> Decimal:
    """Compute the discount on a line, in cents rounded down: the share, limited by DISCOUNTED_MARGIN."""
    gross = price * quantity
    most = (gross - price_default) * DISCOUNTED_MARGIN
    return max(min(gross * share, most), Decimal(0)).quantize(CENT, ROUND_DOWN)


def is_price(price: Decimal | None) -> bool:
    """Whether something can be sold at this price."""
    return price is not None and price.is_finite() and price > 0
