"""The sales fact."""

from warehouse.migrations.ddl import create_table, run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "dwh.fact_order_item",
        "One row per order line in its last state, with the dimension versions that were valid when it was ordered.",
        {
            "order_id": ("text not null", "Natural key: the order's key in the source"),
            "line_id": ("text not null", "Natural key: the line within the order"),
            "source_system": ("text not null", "Source system that the natural keys belong to"),
            "ordered_at": ("timestamptz not null", "When it was ordered (UTC)"),
            "ordered_date_key": ("integer not null", "Day it was ordered: dim_date"),
            "customer_key": ("bigint not null", "Who bought: version of dim_customer valid when ordered"),
            "product_key": ("bigint not null", "What was bought: version of dim_product valid when ordered"),
            "company_key": ("bigint not null", "Who sold: version of dim_company valid when ordered"),
            "promotion_key": ("bigint not null", "Promotion: dim_promotion; 0 where there was none"),
            "payment_method_key": ("bigint not null", "How it was paid: dim_payment_method"),
            "distribution_center_key": ("bigint not null", "Where it was sent from: dim_distribution_center"),
            "quantity": ("numeric(18, 3) not null", "Units ordered"),
            "base_unit_price_amount": (
                "numeric(18, 4)",
                "Seller's base price of a unit; empty where the source has none",
            ),
            "list_unit_price_amount": ("numeric(18, 4) not null", "Price of a unit before discount"),
            "net_unit_price_amount": ("numeric(18, 4) not null", "Price of a unit after discount"),
            "gross_amount": ("numeric(18, 4) not null", "Quantity times list price"),
            "discount_amount": ("numeric(18, 4) not null", "Discount on the line"),
            "net_amount": ("numeric(18, 4) not null", "Gross less discount: the sale"),
            "profit_amount": (
                "numeric(18, 4)",
                "Net less quantity times base price; empty where there is no base price",
            ),
            "currency": ("text", "Currency of all amounts, ISO 4217"),
            "status": ("text not null", "pending, processing, shipped, complete, cancelled or returned"),
            "returned_at": ("timestamptz", "When it was returned (UTC)"),
            "returned_date_key": ("integer not null", "Day it was returned: dim_date; 0 where it was not"),
            "recorded_at": ("timestamptz", "When the source recorded its last change (UTC)"),
            "run_id": ("bigint not null", "Run that wrote this row last"),
        },
        # The order leads: it is what a distributed table would be distributed by.
        ["constraint pk_fact_order_item primary key (order_id, line_id, source_system)"],
    )
    run(
        "create index ix_fact_order_item_ordered_at on dwh.fact_order_item using brin (ordered_at) "
        "with (pages_per_range = 32)"
    )


def downgrade() -> None:
    run("drop table dwh.fact_order_item")
