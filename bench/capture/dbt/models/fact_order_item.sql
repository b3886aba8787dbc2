{{ config(materialized='incremental', unique_key=['order_id', 'line_number'], incremental_strategy='merge') }}
with customer as (
    select *, lag(dbt_valid_from) over (partition by id order by dbt_valid_from) is null as is_first
    from {{ ref('dim_customer') }}
),

product as (
    select *, lag(dbt_valid_from) over (partition by id order by dbt_valid_from) is null as is_first
    from {{ ref('dim_product') }}
)

select
    item.sales_order_id as order_id, item.line_number, sales_order.ordered_at,
    to_char(sales_order.ordered_at at time zone 'UTC', 'YYYYMMDD')::integer as ordered_date_key,
    customer.dbt_scd_id as customer_key, product.dbt_scd_id as product_key, product.company_id, item.promotion_id,
    sales_order.payment_method_id, item.distribution_center_id, item.quantity, item.unit_price_default, item.unit_price,
    item.quantity * item.unit_price as gross_amount, item.discount_amount,
    item.quantity * item.unit_price - item.discount_amount as net_amount,
    item.quantity * (item.unit_price - item.unit_price_default) - item.discount_amount as profit_amount,
    product.currency, item.status, item.returned_at, item.updated_at
from {{ source('raw', 'order_item') }} as item
inner join {{ source('raw', 'sales_order') }} as sales_order on item.sales_order_id = sales_order.id
left join customer
    on sales_order.customer_id = customer.id
    and (sales_order.ordered_at >= customer.dbt_valid_from or customer.is_first)
    and sales_order.ordered_at < coalesce(customer.dbt_valid_to, 'infinity')
left join product
    on item.product_id = product.id
    and (sales_order.ordered_at >= product.dbt_valid_from or product.is_first)
    and sales_order.ordered_at < coalesce(product.dbt_valid_to, 'infinity')
{% if is_incremental() %}
where item.updated_at > (select max(updated_at) from {{ this }})
{% endif %}
