-- mart.top_sellers: the ten best-selling products per source and currency, by units, then net sales.
-- inputs: mart.sales_by_product, dwh.dim_product (names)
with product_sales as (
    select
        sales.source_system,
        sales.currency,
        sales.product_id,
        sum(sales.order_count)::bigint as order_count,
        sum(sales.unit_count) as unit_count,
        sum(sales.net_amount) as net_amount,
        sum(sales.profit_amount) as profit_amount
    from mart.sales_by_product as sales
    where sales.line_count > 0
    group by sales.source_system, sales.currency, sales.product_id
),

ranked as (
    select
        product_sales.*,
        row_number() over (
            partition by product_sales.source_system, product_sales.currency
            order by product_sales.unit_count desc, product_sales.net_amount desc, product_sales.product_id asc
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
    on ranked.product_id = product.product_id and product.is_current
    -- A partner's order may name a product of another source: of its own one, else of the only one that has it.
    and product.source_system = (
        select
            coalesce(
                max(one.source_system) filter (where one.source_system = ranked.source_system),
                case when min(one.source_system) = max(one.source_system) then min(one.source_system) end
            )
        from dwh.dim_product as one
        where one.product_id = ranked.product_id
    )
where ranked.product_rank <= 10
order by ranked.source_system, ranked.currency, ranked.product_rank
