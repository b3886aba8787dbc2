-- mart.monthly_sales: the twelve months up to a source's newest one, per currency; without sales, with zeros.
-- inputs: mart.sales_by_month
-- The year ends where the data end, not today: a warehouse that was not fed for a while shows its last year,
-- and newest_month says which that is. Orders dated in the future do not move it.
with source as (
    select
        sales.source_system,
        max(sales.month) as newest_month
    from mart.sales_by_month as sales
    where sales.month <= mart.local_date(now())
    group by sales.source_system
),

currency as (
    select
        source.source_system,
        source.newest_month,
        sales.currency
    from source
    inner join mart.sales_by_month as sales
        on source.source_system = sales.source_system
        and sales.month > source.newest_month - interval '12 months' and sales.month <= source.newest_month
    group by source.source_system, source.newest_month, sales.currency
),

calendar as (
    select
        currency.source_system,
        currency.newest_month,
        currency.currency,
        (currency.newest_month - make_interval(months => months_ago.months_ago))::date as month
    from currency
    cross join generate_series(0, 11) as months_ago (months_ago)
)

select
    calendar.source_system,
    calendar.month,
    calendar.currency,
    coalesce(sales.order_count, 0) as order_count,
    coalesce(sales.line_count, 0) as line_count,
    coalesce(sales.unit_count, 0) as unit_count,
    coalesce(sales.gross_amount, 0) as gross_amount,
    coalesce(sales.discount_amount, 0) as discount_amount,
    coalesce(sales.net_amount, 0) as net_amount,
    sales.profit_amount,
    coalesce(sales.returned_line_count, 0) as returned_line_count,
    coalesce(sales.returned_net_amount, 0) as returned_net_amount,
    coalesce(sales.cancelled_line_count, 0) as cancelled_line_count,
    coalesce(sales.cancelled_net_amount, 0) as cancelled_net_amount,
    calendar.newest_month
from calendar
left join mart.sales_by_month as sales
    on calendar.source_system = sales.source_system
    and calendar.month = sales.month and calendar.currency = sales.currency
order by calendar.source_system, calendar.currency, calendar.month
