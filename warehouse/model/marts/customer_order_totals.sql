-- mart.customer_order_totals: one row per source, currency and customer, over all time.
-- inputs: mart.customer_sales, dwh.dim_customer (name, country)
select
    sales.source_system,
    sales.currency,
    sales.customer_id,
    coalesce(customer.customer_key, shared.customer_key) as customer_key,
    coalesce(customer.name, shared.name) as customer_name,
    coalesce(customer.country, shared.country) as customer_country,
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
    on sales.customer_id = customer.customer_id and sales.source_system = customer.source_system
    and customer.is_current
left join dwh.dim_customer as shared
    on sales.customer_id = shared.customer_id and shared.is_current
    -- A partner's order may name a customer of another source: the only one that has it, if its own has none. Looked for
    -- only there: it takes a search for each.
    and shared.source_system = case
        when customer.customer_key is null
            then (
                select min(one.source_system) from dwh.dim_customer as one
                where one.customer_id = sales.customer_id
                having min(one.source_system) = max(one.source_system)
            )
    end
