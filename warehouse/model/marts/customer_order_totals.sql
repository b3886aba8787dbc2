-- mart.customer_order_totals: one row per source, currency and customer, over all time.
-- inputs: mart.customer_sales, dwh.dim_customer (name, country)
select
    sales.source_system,
    sales.currency,
    sales.customer_source_system,
    sales.customer_id,
    customer.customer_key,
    customer.name as customer_name,
    customer.country as customer_country,
    sales.order_count,
    sales.line_count,
    sales.unit_count,
    sales.gross_amount,
    sales.discount_amount,
    sales.net_amount,
    sales.net_amount / nullif(sales.order_count, 0) as average_order_amount,
    sales.returned_net_amount,
    sales.first_ordered_date,
    sales.last_ordered_date
from mart.customer_sales as sales
left join dwh.dim_customer as customer
    on sales.customer_id = customer.customer_id and sales.customer_source_system = customer.source_system
    and customer.is_current
