-- mart.return_rates: one row per source, currency and category, over all time.
-- inputs: mart.sales_by_product
select
    sales.source_system,
    sales.currency,
    sales.category,
    sum(sales.line_count)::bigint as line_count,
    sum(sales.returned_line_count)::bigint as returned_line_count,
    sum(sales.returned_line_count) / nullif(sum(sales.line_count), 0) as return_rate,
    sum(sales.net_amount) as net_amount,
    sum(sales.returned_net_amount) as returned_net_amount,
    sum(sales.returned_net_amount) / nullif(sum(sales.net_amount), 0) as returned_net_share
from mart.sales_by_product as sales
group by sales.source_system, sales.currency, sales.category
order by sales.source_system asc, sales.currency asc, return_rate desc nulls last, sales.category asc
