-- mart.top_products_by_region: the five best-selling products per source, currency, category and country of customers.
-- inputs: mart.sales_by_product_country, dwh.dim_product (names)
with ranked as (
    select
        sales.*,
        row_number() over (
            partition by sales.source_system, sales.currency, sales.category, sales.customer_country
            order by sales.unit_count desc, sales.net_amount desc, sales.product_id asc
        ) as product_rank
    from mart.sales_by_product_country as sales
    where sales.line_count > 0
)

select
    ranked.source_system,
    ranked.currency,
    ranked.category,
    ranked.customer_country,
    ranked.product_rank::integer as product_rank,
    ranked.product_id,
    product.name as product_name,
    ranked.order_count,
    ranked.unit_count,
    ranked.net_amount
from ranked
left join dwh.dim_product as product
    on ranked.product_id = product.product_id and ranked.source_system = product.source_system and product.is_current
where ranked.product_rank <= 5
