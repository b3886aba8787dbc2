-- order_lead: one row per order that changed and names a lead.
-- inputs: staging.orders_order_lead_changed_keys (keys), raw.orders_order
-- Customers are looked up by document number: see lookups in source.toml.
select
    orders.order_id,
    nullif(regexp_replace(upper(orders.customer_document_number), '[[:space:][:punct:]]', '', 'g'), '') as customer_id,
    orders.order_dt as ordered_at,
    orders.lead_id,
    orders.record_timestamp as changed_at
from staging.orders_order_lead_changed_keys as changed
inner join raw.orders_order as orders on changed.order_id = orders.order_id
where not orders._is_deleted and orders.lead_id <> ''
