-- mart.sales_by_month: sales per source, month of the order and currency, over all time.
-- inputs: dwh.fact_order_item
-- A sale is a line that was ordered and not cancelled. A returned line was sold: it stays in its order's month
-- and is shown beside it, so that a month's sales do not change when something comes back a quarter later.
-- Not materialized: each of the two scans may then run in parallel.
with line as not materialized (
    select
        fact.source_system,
        date_trunc('month', mart.local_time(fact.ordered_at))::date as month,
        coalesce(fact.currency, 'XXX') as currency,
        fact.order_id,
        fact.quantity,
        fact.gross_amount,
        fact.discount_amount,
        fact.net_amount,
        fact.profit_amount,
        fact.status = 'cancelled' as is_cancelled,
        fact.status = 'returned' as is_returned
    from dwh.fact_order_item as fact
),

summed as (
    select
        line.source_system,
        line.month,
        line.currency,
        count(*) filter (where not line.is_cancelled) as line_count,
        coalesce(sum(line.quantity) filter (where not line.is_cancelled), 0) as unit_count,
        coalesce(sum(line.gross_amount) filter (where not line.is_cancelled), 0) as gross_amount,
        coalesce(sum(line.discount_amount) filter (where not line.is_cancelled), 0) as discount_amount,
        coalesce(sum(line.net_amount) filter (where not line.is_cancelled), 0) as net_amount,
        sum(line.profit_amount) filter (where not line.is_cancelled) as profit_amount,
        count(*) filter (where line.is_returned) as returned_line_count,
        coalesce(sum(line.net_amount) filter (where line.is_returned), 0) as returned_net_amount,
        sum(line.profit_amount) filter (where line.is_returned) as returned_profit_amount,
        count(*) filter (where line.is_cancelled) as cancelled_line_count,
        coalesce(sum(line.net_amount) filter (where line.is_cancelled), 0) as cancelled_net_amount
    from line
    group by line.source_system, line.month, line.currency
),

sales_order as (
    select distinct
        line.source_system,
        line.month,
        line.currency,
        line.order_id
    from line
    where not line.is_cancelled
),

counted as (
    select
        sales_order.source_system,
        sales_order.month,
        sales_order.currency,
        count(*) as order_count
    from sales_order
    group by sales_order.source_system, sales_order.month, sales_order.currency
)

select
    summed.source_system,
    summed.month,
    summed.currency,
    coalesce(counted.order_count, 0) as order_count,
    summed.line_count,
    summed.unit_count,
    summed.gross_amount,
    summed.discount_amount,
    summed.net_amount,
    summed.profit_amount,
    summed.returned_line_count,
    summed.returned_net_amount,
    summed.returned_profit_amount,
    summed.cancelled_line_count,
    summed.cancelled_net_amount
from summed
left join counted
    on summed.source_system = counted.source_system
    and summed.month = counted.month and summed.currency = counted.currency
