-- mart.sales_by_month: sales per source, month of the order and currency, over all time.
-- inputs: mart.sales_by_day
-- Orders add up over days: all lines of an order are ordered at the same moment.
select
    sales.source_system,
    date_trunc('month', sales.ordered_date::timestamp)::date as month,
    sales.currency,
    sum(sales.order_count)::bigint as order_count,
    sum(sales.line_count)::bigint as line_count,
    sum(sales.unit_count) as unit_count,
    sum(sales.gross_amount) as gross_amount,
    sum(sales.discount_amount) as discount_amount,
    sum(sales.net_amount) as net_amount,
    sum(sales.profit_amount) as profit_amount,
    sum(sales.returned_line_count)::bigint as returned_line_count,
    sum(sales.returned_net_amount) as returned_net_amount,
    sum(sales.returned_profit_amount) as returned_profit_amount,
    sum(sales.cancelled_line_count)::bigint as cancelled_line_count,
    sum(sales.cancelled_net_amount) as cancelled_net_amount
from mart.sales_by_day as sales
group by sales.source_system, date_trunc('month', sales.ordered_date::timestamp), sales.currency
