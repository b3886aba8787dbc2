"""Store interactions by day, customer segments and the best products of each country."""

from warehouse.migrations.sql import execute

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("drop view if exists mart.interactions_by_day cascade")
    execute(
        """
        create table mart.interactions_by_day (
            request_date date not null,
            action text not null,
            interaction_count bigint
        )
        """
    )
    execute("create index ix_interactions_by_day_1 on mart.interactions_by_day (request_date)")
    execute(
        """
        create table mart.customer_segments (
            source_system text not null,
            currency text not null,
            segment text not null,
            customer_count bigint,
            order_count bigint,
            net_amount numeric,
            net_share numeric,
            as_of_date date
        )
        """
    )
    execute(
        """
        create table mart.best_products_by_country (
            source_system text not null,
            currency text not null,
            category text not null,
            customer_country text not null,
            product_rank integer not null,
            product_id text,
            order_count bigint,
            unit_count numeric,
            net_amount numeric
        )
        """
    )


def downgrade() -> None:
    execute("drop table mart.best_products_by_country cascade")
    execute("drop table mart.customer_segments cascade")
    execute("drop table mart.interactions_by_day cascade")
