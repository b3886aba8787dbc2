-- mart.total_sales: one row per source and currency: sales over all time.
-- inputs: mart.sales_by_day, mart.as_of
select
    sales.source_system,
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
    sum(sales.cancelled_net_amount) as cancelled_net_amount,
    sum(sales.returned_line_count) / nullif(sum(sales.line_count), 0) as return_rate,
    sum(sales.discount_amount) / nullif(sum(sales.gross_amount), 0) as discount_rate,
    sum(sales.net_amount) / nullif(sum(sales.order_count), 0) as average_order_amount,
    min(sales.ordered_date) filter (where sales.line_count > 0) as first_ordered_date,
    max(sales.ordered_date) filter (where sales.line_count > 0) as last_ordered_date,
    max(as_of.as_of_date) as as_of_date
from mart.sales_by_day as sales
left join mart.as_of as as_of on sales.source_system = as_of.source_system
group by sales.source_system, sales.currency
order by sales.source_system asc, net_amount desc, sales.currency asc
