-- mart.monthly_sales: the twelve full months before the as-of date, per source and currency; without sales, with zeros.
-- inputs: mart.sales_by_month, mart.as_of
with currency as (
    select distinct
        sales.source_system,
        sales.currency,
        as_of.as_of_date,
        as_of.year_start_date
    from mart.sales_by_month as sales
    inner join mart.as_of as as_of
        on sales.source_system = as_of.source_system
        and sales.month >= as_of.year_start_date and sales.month < as_of.year_end_date
),

calendar as (
    select
        currency.source_system,
        currency.currency,
        currency.as_of_date,
        (currency.year_start_date + make_interval(months => month.number))::date as month
    from currency
    cross join generate_series(0, 11) as month (number)
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
    coalesce(
        sales.profit_amount,
        case
            when count(sales.profit_amount) over (partition by calendar.source_system, calendar.currency) > 0 then 0
        end
    ) as profit_amount,
    coalesce(sales.returned_line_count, 0) as returned_line_count,
    coalesce(sales.returned_net_amount, 0) as returned_net_amount,
    coalesce(sales.cancelled_line_count, 0) as cancelled_line_count,
    coalesce(sales.cancelled_net_amount, 0) as cancelled_net_amount,
    calendar.as_of_date
from calendar
left join mart.sales_by_month as sales
    on calendar.source_system = sales.source_system
    and calendar.month = sales.month and calendar.currency = sales.currency
order by calendar.source_system, calendar.currency, calendar.month
