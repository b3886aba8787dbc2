"""Place an order: once per Idempotency-Key, at the shop's prices."""

from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256

import orjson

from api.errors import Fault, InvalidOrder, KeyReused
from api.models import OrderRequest
from api.repositories.orders import Line, Market
from api.repositories.unit_of_work import Again, Shop, UnitOfWork
from api.services import view
from api.services.pricing import LARGEST_AMOUNT, discount_of, is_price

KEYS_AT_A_TIME = 5000


@dataclass(frozen=True)
class Placed:
    """A placed order: its id, and the answer in JSON, which stays the same when the request is repeated."""

    order_id: int
    answer: bytes


async def place_order(shop: Shop, request: OrderRequest, key: str | None) -> Placed:
    """Place an order; with a key that came before, return the first answer instead.

    Raises:
        InvalidOrder: something does not exist or cannot be sold; lists every fault.
        KeyReused: the key came before with another order.
        ShopUnavailable: the database is away or busy.
    """
    if key is None:
        return await shop.run(lambda unit: _place(unit, request))
    request_hash = _hash(request)

    async def once(unit: UnitOfWork) -> Placed:
        if not await unit.keys.claim(key, request_hash):
            return await _repeat(unit, key, request_hash)
        placed = await _place(unit, request)
        await unit.keys.store(key, placed.answer)
        return placed

    return await shop.run(once)


async def remove_old_keys(shop: Shop) -> int:
    """Remove all keys that are older than 24 hours, in small transactions; returns how many."""
    removed = 0
    while True:
        rows = await shop.run(lambda unit: unit.keys.remove_old(KEYS_AT_A_TIME))
        removed += rows
        if rows < KEYS_AT_A_TIME:
            return removed


async def _place(unit: UnitOfWork, request: OrderRequest) -> Placed:
    product_ids = [product.product_id for product in request.products]
    market = await unit.orders.read_market(request.customer_id, request.payment_id, product_ids)
    lines = _lines(request, market)
    await unit.orders.insert(market, request.customer_id, request.payment_id, lines)
    return Placed(market.order_id, orjson.dumps(view.new_order(request, market, lines)))


async def _repeat(unit: UnitOfWork, key: str, request_hash: bytes) -> Placed:
    stored = await unit.keys.read(key)
    if stored is None:
        # The key got 24 hours old and was removed after we had tried to claim it.
        raise Again
    first_hash, answer = stored
    if first_hash != request_hash:
        raise KeyReused
    return Placed(orjson.loads(answer)["id"], answer)


def _lines(request: OrderRequest, market: Market) -> list[Line]:
    faults = []
    if not market.has_customer:
        faults.append(Fault("/customerId", f"There is no customer {request.customer_id}."))
    if not market.has_payment_method:
        faults.append(Fault("/payment_id", f"There is no payment method {request.payment_id}."))
    lines = []
    for position, (ordered, offer) in enumerate(zip(request.products, market.offers, strict=True)):
        product = f"/products/{position}/productId"
        price, price_default, center = offer.price, offer.price_default, offer.distribution_center_id
        if price is None or price_default is None or offer.currency is None:
            faults.append(Fault(product, f"There is no product {ordered.product_id}."))
        elif not (is_price(price) and price_default.is_finite()):
            faults.append(Fault(product, f"Product {ordered.product_id} has no price at which it is sold."))
        elif center is None:
            faults.append(Fault(product, f"No distribution center has product {ordered.product_id}."))
        elif price * ordered.quantity > LARGEST_AMOUNT:
            faults.append(
                Fault(f"/products/{position}/quantity", "The amount is larger than the shop can book.")
            )
        elif not faults:
            discount = (
                discount_of(price_default, price, ordered.quantity, market.discount_share)
                if market.promotion_id is not None
                else Decimal(0)
            )
            lines.append(
                Line(
                    ordered.product_id,
                    center,
                    ordered.quantity,
                    price_default,
                    price,
                    discount,
                    offer.currency,
                )
            )
    if faults:
        raise InvalidOrder(faults)
    return lines


def _hash(request: OrderRequest) -> bytes:
    products = [(product.product_id, product.quantity) for product in request.products]
    return sha256(orjson.dumps((request.customer_id, request.payment_id, products))).digest()
