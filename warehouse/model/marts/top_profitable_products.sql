-- mart.top_profitable_products: the five most profitable products per source, currency and category.
-- inputs: mart.sales_by_product, dwh.dim_product (names)
with ranked as (
    select
        sales.*,
        row_number() over (
            partition by sales.source_system, sales.currency, sales.category
            order by
                sales.profit_amount desc, sales.net_amount desc, sales.product_id asc,
                sales.product_source_system asc
        )::integer as product_rank
    from mart.sales_by_product as sales
    -- Sources without base prices have no profit.
    where sales.line_count > 0 and sales.profit_amount is not null
)

select
    ranked.source_system,
    ranked.currency,
    ranked.category,
    ranked.product_rank,
    ranked.product_id,
    product.name as product_name,
    ranked.unit_count,
    ranked.net_amount,
    ranked.profit_amount
from ranked
left join dwh.dim_product as product
    on ranked.product_id = product.product_id and ranked.product_source_system = product.source_system
    and product.is_current
where ranked.product_rank <= 5
order by ranked.source_system, ranked.currency, ranked.category, ranked.product_rank
