-- mart.sales_by_segment_month: one row per source, currency, segment, category, country of customers and month of orders.
-- inputs: mart.sales, mart.customer_rfm
-- What was cancelled is no sale, so none of it is counted here.
select
    sales.source_system,
    sales.currency,
    ranked.segment,
    coalesce(sales.category, 'unknown') as category,
    coalesce(sales.customer_country, 'unknown') as customer_country,
    sales.ordered_month,
    count(*) as line_count,
    sum(sales.quantity) as unit_count,
    sum(sales.net_amount) as net_amount,
    sum(sales.profit_amount) as profit_amount,
    max(ranked.as_of_date) as as_of_date
from mart.sales as sales
inner join mart.customer_rfm as ranked
    on sales.source_system = ranked.source_system and sales.currency = ranked.currency
    and coalesce(sales.customer_source_system, 'unknown') = ranked.customer_source_system
    and coalesce(sales.customer_id, 'unknown') = ranked.customer_id
where not sales.is_cancelled
group by
    sales.source_system,
    sales.currency,
    ranked.segment,
    coalesce(sales.category, 'unknown'),
    coalesce(sales.customer_country, 'unknown'),
    sales.ordered_month
