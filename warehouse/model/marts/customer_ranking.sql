-- mart.customer_ranking: one row per source, currency and customer with an order, as of the source's as-of date.
-- inputs: mart.customer_rfm, dwh.dim_customer (name, country, tier)
select
    ranked.source_system,
    ranked.currency,
    ranked.customer_rank,
    ranked.customer_id,
    coalesce(customer.customer_key, shared.customer_key) as customer_key,
    coalesce(customer.name, shared.name) as customer_name,
    coalesce(customer.country, shared.country) as customer_country,
    coalesce(customer.loyalty_tier, shared.loyalty_tier) as loyalty_tier,
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
    on ranked.customer_id = customer.customer_id and ranked.source_system = customer.source_system
    and customer.is_current
left join dwh.dim_customer as shared
    on ranked.customer_id = shared.customer_id and shared.is_current
    -- A partner's order may name a customer of another source: the only one that has it, if its own has none. Looked for
    -- only there: it takes a search for each.
    and shared.source_system = case
        when customer.customer_key is null
            then (
                select min(one.source_system) from dwh.dim_customer as one
                where one.customer_id = ranked.customer_id
                having min(one.source_system) = max(one.source_system)
            )
    end
-- By the index of the rank: the first customers of each source and currency come first, however many there are.
order by ranked.customer_rank, ranked.source_system, ranked.currency
