-- mart.payment_methods_by_use: one row per source, currency and payment method, over all time.
-- inputs: mart.sales_by_payment_method
with used as (
    select
        sales.source_system,
        sales.currency,
        sales.payment_method_name,
        sum(sales.order_count)::bigint as order_count,
        sum(sales.net_amount) as net_amount
    from mart.sales_by_payment_method as sales
    group by sales.source_system, sales.currency, sales.payment_method_name
)

select
    used.source_system,
    used.currency,
    row_number() over (
        partition by used.source_system, used.currency
        order by used.order_count desc, used.net_amount desc, used.payment_method_name asc
    )::integer as payment_method_rank,
    used.payment_method_name,
    used.order_count,
    used.order_count / nullif(sum(used.order_count) over (
        partition by used.source_system, used.currency
    ), 0) as order_share,
    used.net_amount
from used
where used.order_count > 0
order by used.source_system, used.currency, payment_method_rank
