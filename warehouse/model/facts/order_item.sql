-- fact_order_item: one row per order line of the batch, with the dimension versions valid when it was ordered.
-- inputs: staging.conformed_order_item, dwh.dim_customer, dwh.dim_product, dwh.dim_company, dwh.dim_promotion,
--         dwh.dim_payment_method, dwh.dim_distribution_center
select
    line.order_id,
    line.line_id,
    line.source_system,
    line.ordered_at,
    to_char(line.ordered_at at time zone 'UTC', 'YYYYMMDD')::integer as ordered_date_key,
    coalesce(customer.customer_key, 0) as customer_key,
    coalesce(product.product_key, 0) as product_key,
    coalesce(company.company_key, 0) as company_key,
    coalesce(promotion.promotion_key, 0) as promotion_key,
    coalesce(payment_method.payment_method_key, 0) as payment_method_key,
    coalesce(distribution_center.distribution_center_key, 0) as distribution_center_key,
    line.quantity,
    line.unit_price_default_amount as base_unit_price_amount,
    line.unit_price_amount as list_unit_price_amount,
    line.unit_price_amount - line.discount_amount / nullif(line.quantity, 0) as net_unit_price_amount,
    line.quantity * line.unit_price_amount as gross_amount,
    line.discount_amount,
    line.quantity * line.unit_price_amount - line.discount_amount as net_amount,
    line.quantity * (line.unit_price_amount - line.unit_price_default_amount) - line.discount_amount as profit_amount,
    coalesce(product.currency, line.currency) as currency,
    line.status,
    line.returned_at,
    coalesce(to_char(line.returned_at at time zone 'UTC', 'YYYYMMDD')::integer, 0) as returned_date_key,
    line.recorded_at
from staging.conformed_order_item as line
left join dwh.dim_customer as customer
    on line.customer_id = customer.customer_id
    and line.source_system = customer.source_system
    and line.ordered_at >= customer.valid_from and line.ordered_at < customer.valid_to
left join dwh.dim_product as product
    on line.product_id = product.product_id
    and line.source_system = product.source_system
    and line.ordered_at >= product.valid_from and line.ordered_at < product.valid_to
left join dwh.dim_company as company
    on product.company_id = company.company_id
    and product.source_system = company.source_system
    and line.ordered_at >= company.valid_from and line.ordered_at < company.valid_to
left join dwh.dim_promotion as promotion
    on line.promotion_id = promotion.promotion_id
    and line.source_system = promotion.source_system
left join dwh.dim_payment_method as payment_method
    on line.payment_method_id = payment_method.payment_method_id
    and line.source_system = payment_method.source_system
left join dwh.dim_distribution_center as distribution_center
    on line.distribution_center_id = distribution_center.distribution_center_id
    and line.source_system = distribution_center.source_system
