"""Store marts as tables that follow changes."""

from warehouse.migrations.sql import execute

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("drop materialized view if exists mart.sales_by_month cascade")
    execute(
        """
        create table audit.mart_state (
            mart_name text not null,
            definition text not null,
            load_id bigint not null,
            change_id bigint not null,
            refreshed_at timestamptz not null,
            run_id bigint not null,
            constraint pk_mart_state primary key (mart_name)
        )
        """
    )
    execute(
        """
        create table mart.sales_by_day (
            source_system text not null,
            currency text not null,
            ordered_date date not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_day_1 on mart.sales_by_day (ordered_date)")
    execute(
        """
        create table mart.sales_by_category_month (
            source_system text not null,
            currency text not null,
            category text not null,
            ordered_month date not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_category_month_1 on mart.sales_by_category_month (ordered_month)")
    execute(
        """
        create table mart.sales_by_product (
            source_system text not null,
            currency text not null,
            category text not null,
            product_id text not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_product_1 on mart.sales_by_product using hash (product_id)")
    execute(
        """
        create table mart.sales_by_product_country (
            source_system text not null,
            currency text not null,
            category text not null,
            customer_country text not null,
            product_id text not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            net_amount numeric,
            profit_amount numeric
        )
        """
    )
    execute(
        "create index ix_sales_by_product_country_1 on mart.sales_by_product_country using hash (product_id)"
    )
    execute(
        """
        create table mart.sales_by_payment_method (
            source_system text not null,
            currency text not null,
            payment_method_name text not null,
            ordered_month date not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_payment_method_1 on mart.sales_by_payment_method (ordered_month)")
    execute(
        """
        create table mart.sales_by_promotion (
            source_system text not null,
            currency text not null,
            promotion_name text not null,
            ordered_month date not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric
        )
        """
    )
    execute("create index ix_sales_by_promotion_1 on mart.sales_by_promotion (ordered_month)")
    execute(
        """
        create table mart.customer_sales (
            source_system text not null,
            currency text not null,
            customer_id text not null,
            order_count bigint,
            line_count bigint,
            unit_count numeric,
            gross_amount numeric,
            discount_amount numeric,
            net_amount numeric,
            profit_amount numeric,
            returned_line_count bigint,
            returned_net_amount numeric,
            returned_profit_amount numeric,
            cancelled_line_count bigint,
            cancelled_net_amount numeric,
            first_ordered_date date,
            last_ordered_date date
        )
        """
    )
    execute("create index ix_customer_sales_1 on mart.customer_sales using hash (customer_id)")
    execute(
        """
        create table mart.customer_rfm (
            source_system text not null,
            currency text not null,
            customer_id text not null,
            customer_rank bigint,
            order_count bigint,
            unit_count numeric,
            net_amount numeric,
            last_ordered_date date,
            recency_days integer,
            recency_score integer,
            frequency_score integer,
            monetary_score integer,
            segment text,
            as_of_date date
        )
        """
    )
    execute("create index ix_customer_rfm_1 on mart.customer_rfm (customer_rank)")
    execute(
        """
        create table mart.customer_feature (
            as_of_date date not null,
            source_system text not null,
            customer_id text not null,
            customer_key bigint,
            age integer,
            country text,
            state text,
            nearest_distribution_center text,
            nearest_distribution_center_km numeric(10, 3),
            return_rate_last_year numeric,
            spend_last_year_amount numeric,
            currency text,
            other_currency_amounts jsonb,
            profit_level integer,
            traffic_source text,
            order_count bigint,
            last_ordered_date date,
            recency_days integer,
            favourite_category text,
            device text,
            known_at timestamptz,
            run_id bigint,
            constraint pk_customer_feature primary key (as_of_date, source_system, customer_id)
        )
        """
    )
    execute(
        """
        create index ix_customer_feature_1 on mart.customer_feature (source_system, customer_id, as_of_date)
        """
    )
    execute(
        """
        create table mart.interactions_by_hour (
            request_date date not null,
            request_hour integer not null,
            action text not null,
            device text not null,
            interaction_count bigint
        )
        """
    )
    execute("create index ix_interactions_by_hour_1 on mart.interactions_by_hour (request_date)")
    execute(
        """
        create table mart.web_user_actions (
            request_month date not null,
            user_name text not null,
            traffic_source text not null,
            traffic_medium text not null,
            device text not null,
            action text not null,
            interaction_count bigint
        )
        """
    )
    execute("create index ix_web_user_actions_1 on mart.web_user_actions (request_month)")
    execute(
        """
        create table mart.customer_activity_by_region (
            source_system text not null,
            country text not null,
            state text not null,
            loyalty_tier text not null,
            customer_count bigint,
            active_customer_count bigint,
            web_customer_count bigint,
            order_count bigint,
            interaction_count bigint,
            as_of_date date
        )
        """
    )
    execute(
        """
        create table mart.customer_age_groups (
            source_system text not null,
            age_group text not null,
            customer_count bigint,
            web_customer_count bigint,
            interaction_count bigint,
            buyer_count bigint,
            order_count bigint,
            as_of_date date,
            constraint pk_customer_age_groups primary key (source_system, age_group)
        )
        """
    )
    execute(
        """
        create table mart.purchase_funnel (
            step_number integer not null,
            step text,
            user_count bigint,
            share_of_previous numeric,
            share_of_first numeric,
            constraint pk_purchase_funnel primary key (step_number)
        )
        """
    )
    execute(
        """
        create table mart.traffic_source_conversion (
            traffic_source text not null,
            traffic_medium text not null,
            user_count bigint,
            customer_count bigint,
            buyer_count bigint,
            conversion_rate numeric,
            interaction_count bigint
        )
        """
    )


def downgrade() -> None:
    for table in (
        "mart.traffic_source_conversion",
        "mart.purchase_funnel",
        "mart.customer_age_groups",
        "mart.customer_activity_by_region",
        "mart.web_user_actions",
        "mart.interactions_by_hour",
        "mart.customer_feature",
        "mart.customer_rfm",
        "mart.customer_sales",
        "mart.sales_by_promotion",
        "mart.sales_by_payment_method",
        "mart.sales_by_product_country",
        "mart.sales_by_product",
        "mart.sales_by_category_month",
        "mart.sales_by_day",
        "audit.mart_state",
    ):
        execute(f"drop table {table}")
