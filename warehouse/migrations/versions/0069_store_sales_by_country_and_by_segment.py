"""Store sales by country and by segment of customers, by category and month."""

from warehouse.migrations.sql import execute

revision = "0069"
down_revision = "0068"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table mart.sales_by_country_month (
            source_system text not null,
            currency text not null,
            category text not null,
            customer_country text not null,
            ordered_month date not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            net_amount numeric,
            profit_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_country_month_1 on mart.sales_by_country_month (ordered_month)")
    execute(
        """
        create table mart.sales_by_segment_month (
            source_system text not null,
            currency text not null,
            segment text not null,
            category text not null,
            customer_country text not null,
            ordered_month date not null,
            line_count bigint,
            unit_count numeric,
            net_amount numeric,
            profit_amount numeric,
            as_of_date date
        )
        """
    )


def downgrade() -> None:
    execute("drop table mart.sales_by_segment_month cascade")
    execute("drop table mart.sales_by_country_month cascade")
