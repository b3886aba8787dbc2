"""Declaration of the sales star: dimensions with attributes, facts with grain, references and measures."""

from collections.abc import Mapping
from typing import Final

from warehouse.model.declaration import (
    BEGINNING,
    END_OF_TIME,
    Column,
    DailySnapshot,
    DateKey,
    Dimension,
    Fact,
    Measure,
    Reference,
    Target,
)

__all__ = [
    "BEGINNING",
    "DIMENSIONS",
    "END_OF_TIME",
    "FACTS",
    "SNAPSHOTS",
    "TARGETS",
    "TARGETS_BY_NAME",
    "DailySnapshot",
    "Dimension",
    "Fact",
    "Target",
]

AMOUNT: Final = "numeric(18, 4)"
DEGREES: Final = "numeric(9, 6)"

DIMENSIONS: Final = (
    Dimension(
        "company",
        "Companies that sell: one row per version.",
        (
            Column("cuit", "text", "Tax number: 11 digits, the last a check digit", tracked=True),
            Column("name", "text", "Name of the company", tracked=True),
            Column("country", "text", "Country, ISO 3166-1 alpha-2 where the source has codes", tracked=True),
        ),
    ),
    Dimension(
        "customer",
        "Customers who buy: one row per version.",
        (
            Column(
                "document_number",
                "text",
                "Number of the identity document",
                tracked=True,
                personal="document number",
            ),
            Column("name", "text", "Full name, or the company's name", tracked=True, personal="name"),
            Column("username", "text", "Login name; the same as in web logs", personal="login name"),
            Column("email", "text", "E-mail address", personal="e-mail"),
            Column("birth_date", "date", "Date of birth", tracked=True, personal="birth date"),
            Column("country", "text", "Country, ISO 3166-1 alpha-2 where the source has codes", tracked=True),
            Column("state", "text", "State, province or region", tracked=True),
            Column("latitude", DEGREES, "Latitude, degrees north", tracked=True, personal="address"),
            Column("longitude", DEGREES, "Longitude, degrees east", tracked=True, personal="address"),
            Column("loyalty_tier", "text", "Tier in the loyalty programme", tracked=True),
            Column("acquisition_source", "text", "Channel that the customer came by"),
        ),
    ),
    Dimension(
        "product",
        "Products: one row per version, with category and brand by name.",
        (
            Column("company_id", "text", "Natural key of the selling company", tracked=True),
            Column("name", "text", "Name of the product", tracked=True),
            Column("category", "text", "Name of its category", tracked=True),
            Column("brand", "text", "Name of its brand", tracked=True),
            Column("price_default_amount", AMOUNT, "Base price of the seller", tracked=True),
            Column("price_amount", AMOUNT, "Price that the platform charges", tracked=True),
            Column("currency", "text", "Currency of the prices, ISO 4217", tracked=True),
            Column(
                "rating_average", "numeric(3, 2)", "Average rating by buyers, 1 to 5; empty without reviews"
            ),
            Column("review_count", "integer", "Reviews by buyers"),
            Column("sold_count", "bigint", "Units ordered and not cancelled since the product is on sale"),
        ),
    ),
    Dimension(
        "promotion",
        "Promotions, as they are now.",
        (
            Column("name", "text", "Name of the promotion"),
            Column("discount_share", "numeric(6, 4)", "Share of the price that it takes off, 0 to 1"),
            Column("starts_at", "timestamptz", "First moment it holds (UTC)"),
            Column("ends_at", "timestamptz", "First moment it no longer holds (UTC)"),
        ),
    ),
    Dimension(
        "payment_method",
        "Payment methods, as they are now.",
        (
            Column("name", "text", "Name of the payment method"),
            Column("kind", "text", "Kind of payment, as card, transfer or wallet"),
        ),
    ),
    Dimension(
        "distribution_center",
        "Distribution centers, as they are now.",
        (
            Column("name", "text", "Name of the distribution center"),
            Column("latitude", DEGREES, "Latitude, degrees north"),
            Column("longitude", DEGREES, "Longitude, degrees east"),
        ),
    ),
    Dimension(
        "lead",
        "Leads: people who may become customers, as they are now.",
        (
            Column("name", "text", "Full name", personal="name"),
            Column("company_name", "text", "Company that the lead works for"),
            Column("email", "text", "E-mail address", personal="e-mail"),
            Column("country", "text", "Country, ISO 3166-1 alpha-2 where the list has codes"),
            Column("interest", "text", "Category or product that the lead is interested in"),
            Column("lead_source", "text", "Where marketing got the lead from, as fair or newsletter"),
        ),
    ),
)

FACTS: Final = (
    Fact(
        "order_item",
        "One row per order line in its last state, with the dimension versions that were valid when it was ordered.",
        grain=(
            Column("order_id", "text", "Natural key: the order's key in the source", required=True),
            Column("line_id", "text", "Natural key: the line within the order", required=True),
        ),
        event=Column("ordered_at", "timestamptz", "When it was ordered (UTC)", required=True),
        refers_to=(
            Reference("customer", "Who bought: version of dim_customer valid when ordered"),
            Reference("product", "What was bought: version of dim_product valid when ordered"),
            Reference("company", "Who sold: version of dim_company valid when ordered", through="product"),
            Reference("promotion", "Promotion: dim_promotion; 0 where there was none"),
            Reference("payment_method", "How it was paid: dim_payment_method"),
            Reference("distribution_center", "Where it was sent from: dim_distribution_center"),
        ),
        measures=(
            Measure("quantity", "numeric(18, 3)", "Units ordered"),
            Measure(
                "base_unit_price_amount",
                AMOUNT,
                "Seller's base price of a unit; empty where the source has none",
                required=False,
                additive=False,
            ),
            Measure("list_unit_price_amount", AMOUNT, "Price of a unit before discount", additive=False),
            Measure("net_unit_price_amount", AMOUNT, "Price of a unit after discount", additive=False),
            Measure("gross_amount", AMOUNT, "Quantity times list price"),
            Measure("discount_amount", AMOUNT, "Discount on the line"),
            Measure("net_amount", AMOUNT, "Gross less discount: the sale"),
            Measure(
                "profit_amount",
                AMOUNT,
                "Net less quantity times base price; empty where there is no base price",
                required=False,
            ),
        ),
        attributes=(
            Column(
                "currency",
                "text",
                "Currency of all amounts, ISO 4217; the product's at that time where the source names none",
            ),
            Column(
                "status",
                "text",
                "pending, processing, shipped, complete, cancelled or returned",
                required=True,
            ),
            Column("returned_at", "timestamptz", "When it was returned (UTC)"),
            Column("recorded_at", "timestamptz", "When the source recorded its last change (UTC)"),
            Column("order_total_amount", "numeric", "Total of the whole order, as the source states it"),
            Column(
                "lead_id", "text", "Natural key of the lead that the order names; empty where it names none"
            ),
        ),
        indexed=("lead_id",),
        dates=(
            DateKey("ordered_at", "Day it was ordered: dim_date"),
            DateKey("returned_at", "Day it was returned: dim_date; 0 where it was not"),
        ),
        inputs=(
            "status",
            "quantity",
            Column("unit_price_default_amount", AMOUNT, "Seller's base price of a unit"),
            Column("unit_price_amount", AMOUNT, "Price of a unit before discount"),
            "discount_amount",
            "order_total_amount",
            "lead_id",
            "currency",
            Column(
                "product_currency",
                "text",
                "Currency of the product as it is now, for lines without one whose product is in quarantine; may be "
                "omitted",
                may_be_omitted=True,
            ),
            "returned_at",
            "recorded_at",
            Column("has_customer", "boolean", "Whether the source holds the customer that it names"),
            Column("has_product", "boolean", "Whether the source holds the product that it names"),
            Column("customer_name", "text", "Name of the customer, for the contract", personal="name"),
            Column(
                "customer_document_number",
                "text",
                "Document number of the customer, for the contract",
                personal="document number",
            ),
            Column(
                "customer_birth_date",
                "date",
                "Birth date of the customer, for the contract",
                personal="birth date",
            ),
        ),
    ),
    Fact(
        "order_lead",
        "One row per order that names a lead, of the source that names it; its lines may be another source's.",
        grain=(Column("order_id", "text", "Natural key: the order's key in the source", required=True),),
        event=Column("ordered_at", "timestamptz", "When it was ordered (UTC)", required=True),
        refers_to=(Reference("customer", "Who bought: version of dim_customer valid when ordered"),),
        measures=(),
        attributes=(
            Column(
                "lead_id",
                "text",
                "Natural key of the lead that the order names, in its source",
                required=True,
            ),
        ),
        indexed=("lead_id",),
        dates=(DateKey("ordered_at", "Day it was ordered: dim_date"),),
        inputs=("lead_id",),
    ),
    Fact(
        "lead_conversion",
        "One row per lead, with the customer that it is matched to and the order that it converted by.",
        table_name="fact_lead",
        grain=(Column("lead_id", "text", "Natural key: the lead's key in the source", required=True),),
        event=Column("created_at", "timestamptz", "When the lead was created (UTC)", required=True),
        refers_to=(
            Reference("lead", "Who it is: dim_lead"),
            Reference(
                "customer",
                "Customer that it is matched to: version of dim_customer valid when it was created",
            ),
        ),
        measures=(
            Measure("conversion_count", "integer", "1 where the lead has converted, else 0"),
            Measure(
                "days_to_conversion",
                "numeric(18, 4)",
                "Days from the lead's creation to the order; empty where it has not converted",
                required=False,
                additive=False,
            ),
        ),
        attributes=(
            Column(
                "match_method",
                "text",
                "How the customer was found: e-mail, name and country, ambiguous (several have it), or none",
                required=True,
            ),
            Column(
                "match_confidence",
                "numeric(3, 2)",
                "How sure the match is, 0 to 1: 1 by e-mail, 0.7 by name and country; empty where there is none",
            ),
            Column(
                "conversion_method",
                "text",
                "How the order was found: named (it names the lead), or matched (the customer's first order since)",
            ),
            Column("order_source_system", "text", "Source system of the order that it converted by"),
            Column(
                "order_id",
                "text",
                "Natural key of the order that it converted by; empty until it has converted",
            ),
            Column("converted_at", "timestamptz", "When that order was placed (UTC)"),
        ),
        dates=(
            DateKey("created_at", "Day it was created: dim_date"),
            DateKey("converted_at", "Day it converted: dim_date; 0 where it has not"),
        ),
        inputs=(
            "match_method",
            "match_confidence",
            "conversion_method",
            "order_source_system",
            "order_id",
            "converted_at",
        ),
    ),
)

SNAPSHOTS: Final = (
    DailySnapshot(
        "inventory",
        "Units in stock: one row per product, distribution center and day, as of the last run of that day.",
        refers_to=(
            Reference("product", "What is in stock: version of dim_product valid when the day began"),
            Reference("distribution_center", "Where it is in stock: dim_distribution_center"),
        ),
        # Not additive: the stock of several days cannot be summed.
        measures=(Measure("quantity", "numeric(18, 3)", "Units that can be sold", additive=False),),
    ),
)

# Dimensions are loaded first, so that facts refer to the versions that the same run has written.
TARGETS: Final[tuple[Target, ...]] = (*DIMENSIONS, *FACTS, *SNAPSHOTS)
# By each name that a user may type: customer, dim_customer, dwh.dim_customer.
TARGETS_BY_NAME: Final[Mapping[str, Target]] = {
    name: target for target in TARGETS for name in (target.entity, target.table, f"dwh.{target.table}")
}
