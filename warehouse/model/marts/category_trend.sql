-- mart.category_trend: one row per source, currency, category and month, beside the month before.
-- inputs: mart.sales_by_category_month
select
    sales.source_system,
    sales.currency,
    sales.category,
    sales.ordered_month,
    sales.order_count,
    sales.unit_count,
    sales.net_amount,
    coalesce(before.net_amount, 0) as previous_net_amount,
    (sales.net_amount - before.net_amount) / nullif(before.net_amount, 0) as net_change_share
from mart.sales_by_category_month as sales
left join mart.sales_by_category_month as before
    on sales.source_system = before.source_system and sales.currency = before.currency
    and sales.category = before.category
    and before.ordered_month = (sales.ordered_month - interval '1 month')::date
order by sales.source_system, sales.currency, sales.category, sales.ordered_month
