"""Let order lines name the currency that their product has now, beside one of their own."""

from warehouse.migrations.sql import execute

revision = "0075"
down_revision = "0074"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("alter table staging.conformed_order_item add column product_currency text")


def downgrade() -> None:
    execute("alter table staging.conformed_order_item drop column product_currency")
