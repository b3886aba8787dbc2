"""Add product counters."""

from warehouse.migrations.sql import execute

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("alter table dwh.dim_product add column rating_average numeric(3,2)")
    execute("alter table dwh.dim_product add column review_count integer")
    execute("alter table dwh.dim_product add column sold_count bigint")
    execute("alter table staging.conformed_product add column rating_average numeric(3,2)")
    execute("alter table staging.conformed_product add column review_count integer")
    execute("alter table staging.conformed_product add column sold_count bigint")


def downgrade() -> None:
    execute("alter table staging.conformed_product drop column rating_average")
    execute("alter table staging.conformed_product drop column review_count")
    execute("alter table staging.conformed_product drop column sold_count")
    execute("alter table dwh.dim_product drop column rating_average")
    execute("alter table dwh.dim_product drop column review_count")
    execute("alter table dwh.dim_product drop column sold_count")
