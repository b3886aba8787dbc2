"""The star schema as declarations: what each dimension and fact is made of, for the engine to load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BEGINNING: Final = "1900-01-01 00:00:00+00"
END_OF_TIME: Final = "2100-01-01 00:00:00+00"


@dataclass(frozen=True)
class Dimension:
    """A dimension: `tracked` attributes open a new version, `untracked` ones are overwritten in place."""

    entity: str
    tracked: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()

    @property
    def has_history(self) -> bool:
        return bool(self.tracked)

    @property
    def table(self) -> str:
        return f"dim_{self.entity}"

    @property
    def key(self) -> str:
        return f"{self.entity}_key"

    @property
    def natural_key(self) -> tuple[str, ...]:
        return (f"{self.entity}_id",)

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.tracked + self.untracked


@dataclass(frozen=True)
class Fact:
    """A fact: one row per natural key; `references` are the dimensions that it names by natural key."""

    entity: str
    natural_key: tuple[str, ...]
    event_time: str
    references: tuple[str, ...]
    # Dimensions reached through another one, as the seller through the product: re-keyed, never inferred.
    derived: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return f"fact_{self.entity}"


DIMENSIONS: Final = (
    Dimension("company", tracked=("cuit", "name", "country")),
    Dimension(
        "customer",
        tracked=(
            "document_number",
            "name",
            "birth_date",
            "country",
            "state",
            "latitude",
            "longitude",
            "loyalty_tier",
        ),
        untracked=("username", "email", "acquisition_source"),
    ),
    Dimension(
        "product",
        tracked=(
            "company_id",
            "name",
            "category",
            "brand",
            "price_default_amount",
            "price_amount",
            "currency",
        ),
    ),
    Dimension("promotion", untracked=("name", "discount_share", "starts_at", "ends_at")),
    Dimension("payment_method", untracked=("name", "kind")),
    Dimension("distribution_center", untracked=("name", "latitude", "longitude")),
)

FACTS: Final = (
    Fact(
        "order_item",
        natural_key=("order_id", "line_id"),
        event_time="ordered_at",
        references=("customer", "product", "promotion", "payment_method", "distribution_center"),
        derived={"company": "product"},
    ),
)

# Dimensions first: a fact takes the versions that its own run has just written.
TARGETS: Final[tuple[Dimension | Fact, ...]] = (*DIMENSIONS, *FACTS)
