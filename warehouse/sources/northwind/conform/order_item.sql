-- order_item: one row per order line that changed, or whose order did; the product identifies a line of an order.
-- inputs: staging.northwind_order_item_changed_keys (keys), raw.northwind_order_details, raw.northwind_orders,
--         raw.northwind_customers, raw.northwind_products
with changed_order as (
    select distinct changed.order_id
    from staging.northwind_order_item_changed_keys as changed
),

order_total as (
    select
        line.order_id,
        -- Lines with an infinite or NaN amount are quarantined by their own rule, and are not part of the total.
        coalesce(sum(line.amount) filter (where abs(line.amount) < 'Infinity'), sum(line.amount)) as amount
    from (
        select
            details.order_id,
            details.quantity * details.unit_price::numeric * (1 - details.discount::numeric) as amount
        from changed_order
        inner join raw.northwind_order_details as details on changed_order.order_id = details.order_id
        where not details._is_deleted
    ) as line
    group by line.order_id
)

select
    line.order_id::text as order_id,
    line.product_id::text as line_id,
    sales_order.customer_id::text as customer_id,
    line.product_id::text as product_id,
    -- A date: midnight in the company's time zone.
    sales_order.order_date as ordered_at,
    case when sales_order.shipped_date is null then 'processing' else 'complete' end as status,
    line.quantity,
    round(line.unit_price::numeric, 4) as unit_price_amount,
    round(line.quantity * line.unit_price::numeric * line.discount::numeric, 4) as discount_amount,
    order_total.amount as order_total_amount,
    'USD' as currency,
    customer.customer_id is not null as has_customer,
    product.product_id is not null as has_product,
    customer.company_name as customer_name
from staging.northwind_order_item_changed_keys as changed
inner join raw.northwind_order_details as line
    on changed.order_id = line.order_id and changed.product_id = line.product_id
left join order_total on line.order_id = order_total.order_id
left join raw.northwind_orders as sales_order on line.order_id = sales_order.order_id and not sales_order._is_deleted
left join raw.northwind_customers as customer
    on sales_order.customer_id = customer.customer_id and not customer._is_deleted
left join raw.northwind_products as product on line.product_id = product.product_id and not product._is_deleted
where not line._is_deleted
