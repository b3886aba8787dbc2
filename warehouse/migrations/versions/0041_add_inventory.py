"""Add inventory."""

from warehouse.migrations.sql import execute

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table dwh.fact_inventory_day (
            snapshot_date date not null,
            product_id text not null,
            distribution_center_id text not null,
            source_system text not null,
            snapshot_date_key integer not null,
            product_key bigint not null,
            distribution_center_key bigint not null,
            quantity numeric(18, 3) not null,
            is_carried_forward boolean not null,
            run_id bigint not null,
            constraint pk_fact_inventory_day primary key (snapshot_date, product_id, distribution_center_id, source_system)
        )
        """
    )
    execute(
        """
        create unlogged table staging.conformed_inventory (
            source_system text not null,
            product_id text,
            distribution_center_id text,
            quantity numeric,
            changed_at timestamptz
        )
        """
    )


def downgrade() -> None:
    execute("drop table staging.conformed_inventory")
    execute("drop table dwh.fact_inventory_day")
