"""What people read of sales: every line with names, and months."""

from pathlib import Path

from warehouse.migrations.ddl import create_view, run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"

LINE = {
    "source_system": "Source system of the order",
    "order_id": "Order: its key in the source",
    "line_id": "Line within the order",
    "ordered_at": "When it was ordered (UTC)",
    "ordered_date": "Day of the order (UTC)",
    "ordered_month": "First day of the month of the order (UTC)",
    "status": "pending, processing, shipped, complete, cancelled or returned",
    "is_cancelled": "Whether the line was cancelled, and so is no sale",
    "is_returned": "Whether the line was sold and came back",
    "customer_id": "Customer: key in the source",
    "customer_name": "Name that the customer had when ordering",
    "customer_country": "Country that the customer lived in when ordering",
    "customer_state": "State that the customer lived in when ordering",
    "loyalty_tier": "Tier that the customer had when ordering",
    "acquisition_source": "Channel that the customer came by",
    "product_id": "Product: key in the source",
    "product_name": "Name of the product when ordered",
    "category": "Category of the product when ordered",
    "brand": "Brand of the product when ordered",
    "company_id": "Selling company: key in the source",
    "company_name": "Name of the selling company when ordered",
    "company_country": "Country of the selling company when ordered",
    "promotion_name": "Promotion; empty where there was none",
    "payment_method_name": "How it was paid",
    "distribution_center_name": "Where it was sent from",
    "quantity": "Units ordered",
    "base_unit_price_amount": "Seller's base price of a unit; empty where the source has none",
    "list_unit_price_amount": "Price of a unit before discount",
    "net_unit_price_amount": "Price of a unit after discount",
    "gross_amount": "Quantity times list price: the sale before discount",
    "discount_amount": "Discount on the line",
    "net_amount": "Gross less discount: the sale",
    "profit_amount": "Net less quantity times base price; empty where there is no base price",
    "currency": "Currency of all amounts, ISO 4217",
    "returned_at": "When it was returned (UTC)",
    "recorded_at": "When the source recorded its last change (UTC)",
    "run_id": "Run that wrote the line last",
}
MONTH = {
    "source_system": "Source system of the orders",
    "month": "First day of the month of the order (UTC)",
    "currency": "Currency of all amounts, ISO 4217; XXX where the source names none",
    "order_count": "Orders with at least one line in this currency that was not cancelled",
    "line_count": "Lines that were not cancelled",
    "unit_count": "Units on these lines",
    "gross_amount": "Sales before discount: these lines, returned ones included",
    "discount_amount": "Discount on these lines",
    "net_amount": "Sales after discount: these lines, returned ones included",
    "profit_amount": "Net less base price on these lines; empty where the source has no base prices",
    "returned_line_count": "Of these lines, how many have come back by now, whenever that was",
    "returned_net_amount": "Of the net amount, what belongs to lines that have come back",
    "returned_profit_amount": "Of the profit, what belongs to lines that have come back",
    "cancelled_line_count": "Lines that were cancelled: in none of the columns before",
    "cancelled_net_amount": "What the cancelled lines would have brought",
}
YEAR = {name: comment for name, comment in MONTH.items() if name != "returned_profit_amount"} | {
    "newest_month": "Newest month in which the source sold: the last of the twelve; it may still be running"
}


def upgrade() -> None:
    create_view(
        "mart.sales",
        "One row per order line, with the names that held when it was ordered in place of keys.",
        (SQL / "sales.sql").read_text(),
        LINE,
    )
    create_view(
        "mart.sales_by_month",
        "Sales per source, month of the order and currency, over all time. A sale is a line that was not "
        "cancelled; a returned line was sold, stays in its month and is shown beside it; as last refreshed.",
        (SQL / "sales_by_month.sql").read_text(),
        MONTH,
        materialized=True,
    )
    run(
        "create unique index uq_sales_by_month_source_system_month_currency "
        "on mart.sales_by_month (source_system, month, currency)"
    )
    create_view(
        "mart.monthly_sales",
        "Monthly sales of the last year: the twelve months up to the newest one in which the source sold, "
        "which is not this month where the warehouse was not fed; months without sales have zeros.",
        (SQL / "monthly_sales.sql").read_text(),
        YEAR,
    )


def downgrade() -> None:
    run("drop view mart.monthly_sales")
    run("drop materialized view mart.sales_by_month")
    run("drop view mart.sales")
