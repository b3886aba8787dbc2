-- mart.orders: one row per item of an order, of the shop and of partners' files, with what the order says of itself.
-- inputs: dwh.fact_order_item, dwh.dim_customer, dwh.dim_product, dwh.dim_company
select
    line.source_system,
    line.order_id,
    line.line_id,
    line.status,
    line.ordered_at as order_dt,
    -- Facts that were loaded by a release without this column have null until they are conformed again.
    coalesce(
        line.order_total_amount,
        (
            select sum(other.net_amount)
            from dwh.fact_order_item as other
            where other.order_id = line.order_id and other.source_system = line.source_system
        )
    ) as order_total_price,
    customer.document_number as customer_document_number,
    customer.name as customer_name,
    customer.birth_date as customer_birth_day,
    product.product_id,
    company.cuit,
    line.quantity as amount,
    line.list_unit_price_amount as item_price,
    line.base_unit_price_amount as item_price_default,
    line.recorded_at as record_timestamp,
    line.run_id,
    line.customer_key
from dwh.fact_order_item as line
left join dwh.dim_customer as customer on line.customer_key = customer.customer_key
left join dwh.dim_product as product on line.product_key = product.product_key
left join dwh.dim_company as company on line.company_key = company.company_key
