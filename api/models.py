"""What clients send and get: JSON. Amounts are decimal numbers in strings, times are UTC."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

MAX_ID = 2**63 - 1
MAX_INTEGER = 2**31 - 1
MAX_PRODUCTS = 1000
MAX_QUANTITY = 1_000_000

Status = Literal["pending", "processing", "shipped", "complete", "cancelled", "returned"]
NextStatus = Literal["processing", "shipped", "complete", "cancelled", "returned"]
Id = Annotated[int, Field(ge=1, le=MAX_ID)]
Amount = Annotated[str, Field(description="Decimal number with two places", examples=["12.50"])]
# Null for times of PostgreSQL that RFC 3339 cannot express: infinity, BC, years after 9999.
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-28T12:00:00Z"])]


class _Request(BaseModel):
    # Strict: "1" and true are no integers.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class OrderedProduct(_Request):
    """A product and how many units of it."""

    product_id: Id = Field(alias="productId")
    quantity: int = Field(ge=1, le=MAX_QUANTITY)


def _is_unique(products: list[OrderedProduct]) -> list[OrderedProduct]:
    seen: set[int] = set()
    for product in products:
        if product.product_id in seen:
            raise PydanticCustomError(
                "duplicate", "Product {id} is there more than once", {"id": product.product_id}
            )
        seen.add(product.product_id)
    return products


class OrderRequest(_Request):
    """An order to be placed. Prices, promotion and distribution center are the shop's decision."""

    customer_id: Id = Field(alias="customerId")
    payment_id: Id = Field(description="Payment method of the shop")
    products: Annotated[
        list[OrderedProduct],
        Field(min_length=1, max_length=MAX_PRODUCTS),
        AfterValidator(_is_unique),
    ]


def _has_no_duplicates(lines: list[int]) -> list[int]:
    if len(set(lines)) < len(lines):
        raise PydanticCustomError("duplicate", "A line is there more than once")
    return lines


def _unique_items(schema: dict[str, Any]) -> None:
    schema["uniqueItems"] = True


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class OrderChange(_Request):
    """The next status of an order with all its lines, or the lines of it that came back: one of both."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["status"]}, {"required": ["returnedLines"]}]}
    )

    status: NextStatus | SkipJsonSchema[None] = Field(default=None, json_schema_extra=_without_default)
    returned_lines: Annotated[
        list[Annotated[int, Field(ge=1, le=MAX_INTEGER)]],
        Field(min_length=1, max_length=MAX_PRODUCTS, json_schema_extra=_unique_items),
        AfterValidator(_has_no_duplicates),
    ] = Field(
        default=[],
        alias="returnedLines",
        description="Numbers of lines that the customer sent back",
        json_schema_extra=_without_default,
    )

    @model_validator(mode="after")
    def _is_one_change(self) -> Self:
        if (self.status is None) == (not self.returned_lines):
            raise PydanticCustomError("one_change", "Either status or returnedLines is needed")
        return self


class Item(BaseModel):
    """A line of an order, in its latest state."""

    lineNumber: int
    productId: int | None
    quantity: int
    status: str | None
    unitPrice: Amount | None
    discountAmount: Amount
    amount: Amount | None = Field(description="Quantity × unit price, less the discount")
    currency: str | None
    promotionId: int | None
    distributionCenterId: int
    returnedAt: Time | None


class OrderSummary(BaseModel):
    """An order without its lines."""

    id: int
    customerId: int
    payment_id: int
    status: str
    orderedAt: Time | None
    updatedAt: Time | None


class Order(OrderSummary):
    """An order with its lines, in its latest state."""

    items: list[Item]


class OrderPage(BaseModel):
    """Orders, newest first, and where the next page begins."""

    orders: list[OrderSummary]
    nextCursor: str | None = Field(description="`cursor` of the next page; null: this is the last one")


class Fault(BaseModel):
    """What is wrong with one part of the request."""

    pointer: str = Field(description="JSON pointer into the body, or the name of a parameter")
    detail: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None
