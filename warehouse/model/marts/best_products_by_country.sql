-- mart.best_products_by_country: the five best-selling products per source, currency, category and country of customers.
-- inputs: mart.sales_by_product_country
with ranked as (
    select
        sales.*,
        row_number() over (
            partition by sales.source_system, sales.currency, sales.category, sales.customer_country
            order by sales.unit_count desc, sales.net_amount desc, sales.product_id asc, sales.product_source_system asc
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
    ranked.product_source_system,
    ranked.product_id,
    ranked.order_count,
    ranked.unit_count,
    ranked.net_amount
from ranked
where ranked.product_rank <= 5
