"""Change an order: the steps from pending to complete, cancellations and returns."""

from api.errors import Fault, ImpossibleTransition, InvalidOrder, UnknownOrder
from api.models import OrderChange
from api.repositories.unit_of_work import Shop, UnitOfWork
from api.services import view

# Statuses that may follow each status; one without an entry is final.
NEXT = {
    "pending": ("processing", "cancelled"),
    "processing": ("shipped", "cancelled"),
    "shipped": ("complete",),
    "complete": ("returned",),
}


async def change_order(shop: Shop, order_id: int, change: OrderChange) -> view.View:
    """Set the next status of an order, or mark lines as returned; a status that it already has changes nothing.

    Raises:
        UnknownOrder: there is no such order.
        InvalidOrder: it has no such lines.
        ImpossibleTransition: its status, or that of a line, does not allow it; nothing is changed.
        ShopUnavailable: the database is away or busy.
    """

    async def work(unit: UnitOfWork) -> view.View:
        status = await unit.orders.lock(order_id)
        if status is None:
            raise UnknownOrder(order_id)
        if change.returned_lines:
            await _return_lines(unit, order_id, status, change.returned_lines)
        elif change.status is not None and change.status != status:
            await _move(unit, order_id, status, change.status)
        return view.order(await unit.orders.read(order_id))

    return await shop.run(work)


async def _move(unit: UnitOfWork, order_id: int, status: str, next_status: str) -> None:
    possible = NEXT.get(status, ())
    if next_status not in possible:
        raise ImpossibleTransition(
            f"Order {order_id} is {status}: it cannot become {next_status}, "
            f"{'only ' + ' or '.join(possible) if possible else 'nor anything else'}."
        )
    await unit.orders.set_status(order_id, next_status)


async def _return_lines(unit: UnitOfWork, order_id: int, status: str, line_numbers: list[int]) -> None:
    statuses = await unit.orders.line_statuses(order_id)
    unknown = [
        Fault(f"/returnedLines/{position}", f"Order {order_id} has no line {number}.")
        for position, number in enumerate(line_numbers)
        if number not in statuses
    ]
    if unknown:
        raise InvalidOrder(unknown)
    coming_back = [number for number in line_numbers if statuses[number] != "returned"]
    if coming_back and status != "complete":
        raise ImpossibleTransition(f"Order {order_id} is {status}: lines of complete orders alone come back.")
    for number in coming_back:
        if statuses[number] != "complete":
            raise ImpossibleTransition(
                f"Line {number} of order {order_id} is {statuses[number]}: complete lines alone come back."
            )
    if coming_back:
        await unit.orders.return_lines(order_id, coming_back)
