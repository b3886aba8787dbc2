-- mart.top_sellers: the ten best-selling products per source and currency, by units, then net sales.
-- inputs: mart.sales_by_product, dwh.dim_product (names)
with product_sales as (
    select
        sales.source_system,
        sales.currency,
        sales.product_source_system,
        sales.product_id,
        sum(sales.order_count)::bigint as order_count,
        sum(sales.unit_count) as unit_count,
        sum(sales.net_amount) as net_amount,
        sum(sales.profit_amount) as profit_amount
    from mart.sales_by_product as sales
    where sales.line_count > 0
    group by sales.source_system, sales.currency, sales.product_source_system, sales.product_id
),

ranked as (
    select
        product_sales.*,
        row_number() over (
            partition by product_sales.source_system, product_sales.currency
            order by
                product_sales.unit_count desc, product_sales.net_amount desc,
                product_sales.product_id asc, product_sales.product_source_system asc
        )::integer as product_rank
    from product_sales
)

select
    ranked.source_system,
    ranked.currency,
    ranked.product_rank,
    ranked.product_id,
    product.name as product_name,
    product.category,
    ranked.order_count,
    ranked.unit_count,
    ranked.net_amount,
    ranked.profit_amount
from ranked
left join dwh.dim_product as product
    on ranked.product_id = product.product_id and ranked.product_source_system = product.source_system
    and product.is_current
where ranked.product_rank <= 10
order by ranked.source_system, ranked.currency, ranked.product_rank
