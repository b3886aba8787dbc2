-- mart.promotion_costs: one row per source, currency and promotion, over all time; of lines without one, none.
-- inputs: mart.sales_by_promotion, dwh.dim_promotion
with promoted as (
    select
        sales.source_system,
        sales.currency,
        sales.promotion_name,
        sum(sales.order_count)::bigint as order_count,
        sum(sales.line_count)::bigint as line_count,
        sum(sales.gross_amount) as gross_amount,
        sum(sales.discount_amount) as discount_amount,
        sum(sales.net_amount) as net_amount,
        sum(sales.profit_amount) as profit_amount
    from mart.sales_by_promotion as sales
    group by sales.source_system, sales.currency, sales.promotion_name
),

-- Promotions that share a name are shown as one, from the first start to the last end.
promotion as (
    select
        promotion.source_system,
        promotion.name,
        max(promotion.discount_share) as discount_share,
        min(promotion.starts_at) as starts_at,
        max(promotion.ends_at) as ends_at
    from dwh.dim_promotion as promotion
    where promotion.promotion_key <> 0
    group by promotion.source_system, promotion.name
)

select
    promoted.source_system,
    promoted.currency,
    promoted.promotion_name,
    promotion.discount_share,
    promotion.starts_at,
    promotion.ends_at,
    promoted.order_count,
    promoted.line_count,
    promoted.gross_amount,
    promoted.discount_amount,
    promoted.net_amount,
    promoted.profit_amount,
    promoted.discount_amount / nullif(promoted.gross_amount, 0) as discount_rate
from promoted
left join promotion
    on promoted.source_system = promotion.source_system and promoted.promotion_name = promotion.name
order by promoted.source_system asc, promoted.currency asc, promoted.discount_amount desc, promoted.promotion_name asc
