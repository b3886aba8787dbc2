"""Know the source of customers and products in marts: a partner's order may name those of another source."""

from typing import Final

from warehouse.migrations.sql import execute

revision = "0072"
down_revision = "0071"
branch_labels = None
depends_on = None

COLUMNS: Final = {
    "sales_by_product": "product_source_system",
    "sales_by_product_country": "product_source_system",
    "best_products_by_country": "product_source_system",
    "customer_sales": "customer_source_system",
    "customer_rfm": "customer_source_system",
}


def upgrade() -> None:
    # They are computed again where the migrations end: their queries are others.
    for mart, column in COLUMNS.items():
        execute(f"truncate mart.{mart}")
        is_of_key = " not null" if mart != "best_products_by_country" else ""
        execute(f"alter table mart.{mart} add column {column} text{is_of_key}")


def downgrade() -> None:
    for mart, column in COLUMNS.items():
        execute(f"truncate mart.{mart}")
        execute(f"alter table mart.{mart} drop column {column} cascade")
