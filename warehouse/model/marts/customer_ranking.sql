-- mart.customer_ranking: one row per source, currency and customer with an order, as of the source's as-of date.
-- inputs: mart.customer_rfm, dwh.dim_customer (name, country, tier)
select
    ranked.source_system,
    ranked.currency,
    ranked.customer_rank,
    ranked.customer_id,
    customer.customer_key,
    customer.name as customer_name,
    customer.country as customer_country,
    customer.loyalty_tier,
    ranked.order_count,
    ranked.unit_count,
    ranked.net_amount,
    ranked.last_ordered_date,
    ranked.recency_days,
    ranked.recency_score,
    ranked.frequency_score,
    ranked.monetary_score,
    ranked.segment,
    ranked.as_of_date
from mart.customer_rfm as ranked
left join dwh.dim_customer as customer
    on ranked.customer_id = customer.customer_id and ranked.customer_source_system = customer.source_system
    and customer.is_current
-- By the index of the rank: the first customers of each source and currency come first, however many there are.
order by ranked.customer_rank, ranked.source_system, ranked.currency
