"""Know the leads that orders name."""

from warehouse.migrations.sql import execute

revision = "0067"
down_revision = "0066"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table dwh.fact_order_lead (
            order_id text not null,
            source_system text not null,
            ordered_at timestamptz not null,
            ordered_date_key integer not null,
            customer_key bigint not null,
            lead_id text not null,
            has_quarantined_update boolean not null default false,
            run_id bigint not null,
            batch_id bigint default (nullif(current_setting('dwh.batch_id'::text, true), ''::text))::bigint,
            constraint pk_fact_order_lead primary key (order_id, source_system)
        )
        """
    )
    execute(
        """
        create index ix_fact_order_lead_ordered_at on dwh.fact_order_lead using brin (ordered_at) with (pages_per_range = 32)
        """
    )
    execute(
        """
        create index ix_fact_order_lead_lead_id on dwh.fact_order_lead (lead_id) where lead_id is not null
        """
    )
    execute(
        """
        create index ix_fact_order_lead_has_quarantined_update on dwh.fact_order_lead (source_system) where has_quarantined_update
        """
    )
    execute(
        """
        create index ix_fact_order_lead_batch_id on dwh.fact_order_lead (batch_id) where batch_id is not null
        """
    )
    execute(
        """
        create unlogged table staging.conformed_order_lead (
            source_system text not null,
            order_id text,
            customer_id text,
            ordered_at timestamptz,
            lead_id text,
            customer_source_system text,
            changed_at timestamptz
        )
        """
    )


def downgrade() -> None:
    execute("drop table staging.conformed_order_lead")
    execute("drop table dwh.fact_order_lead")
