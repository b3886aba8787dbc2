"""Let order lines name their seller."""

from warehouse.migrations.sql import execute

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("alter table staging.conformed_order_item add column company_id text")


def downgrade() -> None:
    execute("alter table staging.conformed_order_item drop column company_id")
