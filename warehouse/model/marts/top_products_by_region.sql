-- mart.top_products_by_region: the five best-selling products per source, currency, category and country of customers.
-- inputs: mart.best_products_by_country, dwh.dim_product (names)
select
    best.source_system,
    best.currency,
    best.category,
    best.customer_country,
    best.product_rank,
    best.product_id,
    product.name as product_name,
    best.order_count,
    best.unit_count,
    best.net_amount
from mart.best_products_by_country as best
left join dwh.dim_product as product
    on best.product_id = product.product_id and best.product_source_system = product.source_system
    and product.is_current
