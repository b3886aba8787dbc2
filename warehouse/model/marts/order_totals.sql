-- mart.order_totals: one row per source, order and currency.
-- inputs: mart.sales
-- Grouping in the order of the primary key lets a query with LIMIT read only its page of orders.
select
    sales.source_system,
    sales.order_id,
    sales.currency,
    min(sales.customer_id) as customer_id,
    min(sales.customer_key) as customer_key,
    min(sales.ordered_at) as ordered_at,
    min(sales.ordered_date) as ordered_date,
    min(sales.payment_method_name) as payment_method_name,
    count(*) filter (where not sales.is_cancelled) as line_count,
    coalesce(sum(sales.quantity) filter (where not sales.is_cancelled), 0) as unit_count,
    coalesce(sum(sales.gross_amount) filter (where not sales.is_cancelled), 0) as gross_amount,
    coalesce(sum(sales.discount_amount) filter (where not sales.is_cancelled), 0) as discount_amount,
    coalesce(sum(sales.net_amount) filter (where not sales.is_cancelled), 0) as net_amount,
    coalesce(
        sum(sales.profit_amount) filter (where not sales.is_cancelled),
        case when count(sales.profit_amount) > 0 then 0 end
    ) as profit_amount,
    count(*) filter (where sales.is_returned) as returned_line_count,
    count(*) filter (where sales.is_cancelled) as cancelled_line_count
from mart.sales as sales
group by sales.order_id, sales.source_system, sales.currency
