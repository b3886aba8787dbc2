"""Errors that services raise, independent of HTTP: `api.routes.problems` maps them to statuses."""

from dataclasses import dataclass
from typing import ClassVar


class OrderApiError(Exception):
    """The API cannot start: what happened (`what`), what to do next (`hint`), and the exit code of `dwh`."""

    def __init__(self, what: str, hint: str, exit_code: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True)
class Fault:
    """What is wrong with one part of a request, named by its JSON pointer."""

    pointer: str
    detail: str


class RequestError(Exception):
    """A request that cannot be done; the message says why."""

    kind: ClassVar[str]


class InvalidOrder(RequestError):
    """The order, or the change of one, names what does not exist or cannot be sold."""

    kind = "invalid-request"

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("The request is not valid.")
        self.faults = faults


class UnknownOrder(RequestError):
    """There is no order with this id."""

    kind = "unknown-order"

    def __init__(self, order_id: int) -> None:
        super().__init__(f"There is no order {order_id}.")


class ImpossibleTransition(RequestError):
    """An order or a line cannot go from its status to the one that was asked for."""

    kind = "impossible-transition"


class KeyReused(RequestError):
    """An Idempotency-Key came before with another order."""

    kind = "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another order within the last 24 hours.")


class ShopUnavailable(Exception):
    """The shop's database is away, too busy or not prepared; a later attempt may succeed."""
