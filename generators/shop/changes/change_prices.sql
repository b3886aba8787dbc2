-- One row per product: multiply base price and price by the same factor; the price stays above the base price.
with step as (
    select
        p.id,
        round(p.price_default * s.factor, 2) as base,
        round(p.price * s.factor, 2) as price
    from public.product as p
    inner join unnest(%(ids)s::bigint[], %(factors)s::numeric[]) as s (id, factor) on p.id = s.id
)

update public.product as p
set
    price_default = greatest(step.base, 0.01),
    price = greatest(step.price, step.base + 0.01, 0.02)
from step
where p.id = step.id
