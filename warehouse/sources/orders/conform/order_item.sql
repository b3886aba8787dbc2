-- order_item: one row per item of an order that changed.
-- inputs: staging.orders_order_item_changed_keys (keys), raw.orders_order_item, raw.orders_order
-- Customers are looked up by document number, sellers by tax number: see lookups in source.toml.
select
    item.order_id,
    item.line_number::text as line_id,
    nullif(regexp_replace(upper(orders.customer_document_number), '[[:space:][:punct:]]', '', 'g'), '') as customer_id,
    item.product_id,
    nullif(regexp_replace(upper(item.cuit), '[[:space:][:punct:]]', '', 'g'), '') as company_id,
    orders.order_dt as ordered_at,
    lower(orders.status) as status,
    item.amount as quantity,
    item.item_price_default as unit_price_default_amount,
    item.item_price as unit_price_amount,
    0 as discount_amount,
    orders.total_price as order_total_amount,
    orders.lead_id,
    orders.record_timestamp as recorded_at,
    orders.customer_document_number is not null as has_customer,
    item.product_id is not null as has_product,
    orders.customer_name,
    orders.customer_document_number,
    orders.customer_birth_day as customer_birth_date,
    orders.record_timestamp as changed_at
from staging.orders_order_item_changed_keys as changed
inner join raw.orders_order_item as item
    on changed.order_id = item.order_id and changed.line_number = item.line_number
inner join raw.orders_order as orders on item.order_id = orders.order_id and not orders._is_deleted
where not item._is_deleted
