-- mart.customer_segments: one row per source, currency and segment of customers, as of the source's as-of date.
-- inputs: mart.customer_rfm
select
    ranked.source_system,
    ranked.currency,
    ranked.segment,
    count(*) as customer_count,
    sum(ranked.order_count)::bigint as order_count,
    sum(ranked.net_amount) as net_amount,
    sum(ranked.net_amount) / nullif(
        sum(sum(ranked.net_amount)) over (partition by ranked.source_system, ranked.currency), 0
    ) as net_share,
    max(ranked.as_of_date) as as_of_date
from mart.customer_rfm as ranked
group by ranked.source_system, ranked.currency, ranked.segment
