-- mart.sales_by_weekday: one row per source, currency and day of the week: sales over all time and their share.
-- inputs: mart.sales_by_day
with weekday as (
    select
        sales.source_system,
        sales.currency,
        extract(isodow from sales.ordered_date)::integer as day_of_week,
        sum(sales.order_count)::bigint as order_count,
        sum(sales.unit_count) as unit_count,
        sum(sales.net_amount) as net_amount
    from mart.sales_by_day as sales
    group by sales.source_system, sales.currency, extract(isodow from sales.ordered_date)
)

select
    weekday.source_system,
    weekday.currency,
    weekday.day_of_week,
    to_char(date '2024-01-01' + weekday.day_of_week - 1, 'FMDay') as day_name,
    weekday.order_count,
    weekday.unit_count,
    weekday.net_amount,
    weekday.order_count / nullif(sum(weekday.order_count) over week, 0) as order_share,
    weekday.net_amount / nullif(sum(weekday.net_amount) over week, 0) as net_share,
    rank() over (
        partition by weekday.source_system, weekday.currency order by weekday.net_amount desc
    )::integer as sales_rank
from weekday
window week as (partition by weekday.source_system, weekday.currency)
order by weekday.source_system, weekday.currency, weekday.day_of_week
