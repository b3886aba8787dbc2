"""Find the orders that name a lead by an index: leads are matched without looking through all facts."""

from warehouse.migrations.sql import execute

revision = "0063"
down_revision = "0062"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        "create index ix_fact_order_item_lead_id on dwh.fact_order_item (lead_id) where lead_id is not null"
    )


def downgrade() -> None:
    execute("drop index dwh.ix_fact_order_item_lead_id")
