-- fact_order_item: measures and attributes of one order line of the batch.
-- inputs: line, a row of staging.conformed_order_item; product, the version of dwh.dim_product that it refers to
select
    line.quantity,
    line.unit_price_default_amount as base_unit_price_amount,
    line.unit_price_amount as list_unit_price_amount,
    line.unit_price_amount - line.discount_amount / nullif(line.quantity, 0) as net_unit_price_amount,
    line.quantity * line.unit_price_amount as gross_amount,
    line.discount_amount,
    line.quantity * line.unit_price_amount - line.discount_amount as net_amount,
    line.quantity * (line.unit_price_amount - line.unit_price_default_amount) - line.discount_amount as profit_amount,
    coalesce(line.currency, product.currency, line.product_currency) as currency,
    line.status,
    line.returned_at,
    line.recorded_at,
    line.order_total_amount,
    line.lead_id
