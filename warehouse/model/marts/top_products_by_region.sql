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
    on best.product_id = product.product_id and product.is_current
    -- A partner's order may name a product of another source: of its own one, else of the only one that has it.
    and product.source_system = (
        select
            coalesce(
                max(one.source_system) filter (where one.source_system = best.source_system),
                case when min(one.source_system) = max(one.source_system) then min(one.source_system) end
            )
        from dwh.dim_product as one
        where one.product_id = best.product_id
    )
