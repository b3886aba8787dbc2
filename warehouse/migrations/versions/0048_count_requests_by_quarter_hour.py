"""Count requests by quarter of an hour."""

from warehouse.migrations.sql import execute

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table dwh.agg_weblog_quarter_hour (
            quarter_hour_at timestamptz not null,
            action text not null,
            request_count bigint not null,
            run_id bigint not null,
            constraint pk_agg_weblog_quarter_hour primary key (quarter_hour_at, action)
        ) with (fillfactor = 70)
        """
    )
    execute(
        """
        create unlogged table staging.weblog_quarter_hour (
            quarter_hour_at timestamptz,
            action text,
            request_count bigint
        )
        """
    )
    execute(
        """
        insert into dwh.agg_weblog_quarter_hour (quarter_hour_at, action, request_count, run_id)
        select counted.quarter_hour_at, request.action, sum(counted.request_count), max(counted.run_id)
        from (
            select date_bin('15 minutes', requested_at, timestamptz '1970-01-01 00:00:00+00') as quarter_hour_at,
                request_key, count(*) as request_count, max(run_id) as run_id
            from dwh.fact_weblog group by 1, 2
        ) as counted
        inner join dwh.dim_request as request using (request_key)
        group by 1, 2
        """
    )


def downgrade() -> None:
    execute("drop table staging.weblog_quarter_hour")
    execute("drop table dwh.agg_weblog_quarter_hour")
