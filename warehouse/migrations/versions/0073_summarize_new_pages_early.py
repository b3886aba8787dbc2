"""Summarize new pages in BRIN indexes early: until a vacuum, each search for a day or a run read all of them."""

from typing import Final

from warehouse.migrations.sql import execute

revision = "0073"
down_revision = "0072"
branch_labels = None
depends_on = None

INDEXES: Final = (
    "dwh.ix_fact_order_item_ordered_at",
    "dwh.ix_fact_lead_created_at",
    "dwh.ix_fact_order_lead_ordered_at",
    "dwh.ix_fact_inventory_day_run_id",
    "audit.ix_before_image_run_id",
    "audit.ix_change_run_id",
)


def upgrade() -> None:
    for index in INDEXES:
        execute(f"alter index {index} set (autosummarize = on)")


def downgrade() -> None:
    for index in INDEXES:
        execute(f"alter index {index} reset (autosummarize)")
