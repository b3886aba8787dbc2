-- order_item: one row per order line that changed, or whose order did.
-- inputs: staging.shop_order_item_changed_keys (keys), raw.shop_order_item, raw.shop_sales_order, raw.shop_customer,
--         raw.shop_product
with order_total as (
    select
        line.sales_order_id,
        -- Lines with an infinite or NaN amount are quarantined by their own rule, and are not part of the total. min()
        -- is for orders without finite lines: a second sum() would need too much memory for its state per order.
        coalesce(sum(line.amount) filter (where abs(line.amount) < 'Infinity'), min(line.amount)) as amount
    from (
        select
            sales_order_id,
            quantity * unit_price - discount_amount as amount
        from raw.shop_order_item
        where not _is_deleted and sales_order_id in (select sales_order_id from staging.shop_order_item_changed_keys)
    ) as line
    group by line.sales_order_id
)

select
    item.sales_order_id::text as order_id,
    item.line_number::text as line_id,
    sales_order.customer_id::text as customer_id,
    item.product_id::text as product_id,
    item.promotion_id::text as promotion_id,
    sales_order.payment_method_id::text as payment_method_id,
    item.distribution_center_id::text as distribution_center_id,
    sales_order.ordered_at,
    item.status,
    round(item.quantity::numeric, 3) as quantity,
    round(item.unit_price_default::numeric, 4) as unit_price_default_amount,
    round(item.unit_price::numeric, 4) as unit_price_amount,
    round(item.discount_amount::numeric, 4) as discount_amount,
    order_total.amount as order_total_amount,
    product.currency as product_currency,
    item.returned_at,
    coalesce(item.updated_at, item.created_at) as recorded_at,
    customer.id is not null as has_customer,
    product.id is not null as has_product,
    customer.name as customer_name,
    customer.document_number as customer_document_number,
    customer.birth_date as customer_birth_date,
    greatest(item.updated_at, sales_order.updated_at) as changed_at
from staging.shop_order_item_changed_keys as changed
inner join raw.shop_order_item as item
    on changed.sales_order_id = item.sales_order_id and changed.line_number = item.line_number
left join order_total on item.sales_order_id = order_total.sales_order_id
left join raw.shop_sales_order as sales_order
    on item.sales_order_id = sales_order.id and not sales_order._is_deleted
left join raw.shop_customer as customer on sales_order.customer_id = customer.id and not customer._is_deleted
left join raw.shop_product as product on item.product_id = product.id and not product._is_deleted
where not item._is_deleted
