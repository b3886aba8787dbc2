"""/api/v1/orders: place, list, show and change orders."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.models import MAX_ID, Order, OrderChange, OrderPage, OrderRequest, Status
from api.repositories.unit_of_work import Shop
from api.routes.bodies import StrictRoute
from api.routes.problems import documented
from api.services.changing import change_order
from api.services.placing import place_order
from api.services.reading import Filters, list_orders, show_order

MAX_PAGE = 200
PATH = "/api/v1/orders"
# RFC 3339 with a UTC offset: without one, a time would be ambiguous.
TIME = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"

router = APIRouter(prefix=PATH, route_class=StrictRoute, tags=["orders"])

OrderId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID)]
Moment = Annotated[str | None, Field(pattern=TIME, json_schema_extra={"format": "date-time"})]


class OrderQuery(BaseModel):
    """Filters and page of a list of orders; a name that is not among them is an error."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=200, description="nextCursor of the page before")
    customer_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = Field(None, alias="customerId")
    status: Status | None = None
    since: Moment = Field(None, alias="from", description="Placed at this time or later")
    until: Moment = Field(None, alias="to", description="Placed before this time")


@router.post(
    "",
    status_code=201,
    summary="Place an order",
    response_class=Response,
    responses={
        201: {
            "model": Order,
            "description": "The order was placed",
            "headers": {"Location": {"description": "URL of the order", "schema": {"type": "string"}}},
        },
        **documented(400, 409, 413, 415, 503),
    },
)
async def post_order(
    request: Request,
    order: OrderRequest,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="A repeat with the same key within 24 hours gets the first answer",
        ),
    ] = None,
) -> Response:
    """Prices, promotion and distribution centers are the shop's decision."""
    placed = await place_order(_shop(request), order, key)
    return Response(placed.answer, 201, {"Location": f"{PATH}/{placed.order_id}"}, "application/json")


@router.get(
    "",
    summary="List orders, newest first",
    response_class=Response,
    responses={200: {"model": OrderPage}, **documented(400, 503)},
)
async def get_orders(request: Request, query: Annotated[OrderQuery, Query()]) -> Response:
    """A page of orders without their lines; `nextCursor` is the `cursor` of the next one."""
    filters = Filters(query.customer_id, query.status, query.since, query.until)
    return _json(await list_orders(_shop(request), filters, query.limit, query.cursor))


@router.get(
    "/{id}",
    summary="Show an order",
    response_class=Response,
    responses={200: {"model": Order}, **documented(400, 404, 503)},
)
async def get_order(request: Request, order_id: OrderId) -> Response:
    """An order with its lines."""
    return _json(await show_order(_shop(request), order_id))


@router.patch(
    "/{id}",
    summary="Change an order",
    response_class=Response,
    responses={200: {"model": Order}, **documented(400, 404, 409, 413, 415, 503)},
)
async def patch_order(request: Request, order_id: OrderId, change: OrderChange) -> Response:
    """pending → processing → shipped → complete → returned; cancelled from pending or processing.

    Lines of a complete order can come back alone. What an order already is, it stays, without an error.
    """
    return _json(await change_order(_shop(request), order_id, change))


def _shop(request: Request) -> Shop:
    shop = request.app.state.shop
    assert isinstance(shop, Shop)
    return shop


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
