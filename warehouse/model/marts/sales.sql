-- mart.sales: one row per order line, with the names that held when it was ordered in place of keys.
-- inputs: dwh.fact_order_item and the dimensions that it refers to
select
    line.source_system,
    line.order_id,
    line.line_id,
    line.ordered_at,
    mart.local_date(line.ordered_at) as ordered_date,
    date_trunc('month', mart.local_time(line.ordered_at))::date as ordered_month,
    line.status,
    line.status = 'cancelled' as is_cancelled,
    line.status = 'returned' as is_returned,
    customer.source_system as customer_source_system,
    customer.customer_id,
    customer.name as customer_name,
    customer.country as customer_country,
    customer.state as customer_state,
    customer.loyalty_tier,
    customer.acquisition_source,
    product.source_system as product_source_system,
    product.product_id,
    product.name as product_name,
    product.category,
    product.brand,
    company.company_id,
    company.name as company_name,
    company.country as company_country,
    -- A promotion that is not loaded, as one in quarantine, has no name yet.
    case when line.promotion_key <> 0 then coalesce(promotion.name, 'unknown') end as promotion_name,
    payment_method.name as payment_method_name,
    distribution_center.name as distribution_center_name,
    line.quantity,
    line.base_unit_price_amount,
    line.list_unit_price_amount,
    line.net_unit_price_amount,
    line.gross_amount,
    line.discount_amount,
    line.net_amount,
    line.profit_amount,
    coalesce(line.currency, 'XXX') as currency,
    line.returned_at,
    line.recorded_at,
    line.has_quarantined_update,
    line.run_id,
    line.customer_key
from dwh.fact_order_item as line
left join dwh.dim_customer as customer on line.customer_key = customer.customer_key
left join dwh.dim_product as product on line.product_key = product.product_key
left join dwh.dim_company as company on line.company_key = company.company_key
left join dwh.dim_promotion as promotion on line.promotion_key = promotion.promotion_key
left join dwh.dim_payment_method as payment_method
    on line.payment_method_key = payment_method.payment_method_key
left join dwh.dim_distribution_center as distribution_center
    on line.distribution_center_key = distribution_center.distribution_center_key
