-- One row per chance of a product to be sold, prices in cents: once per line of the latest orders, so that what
-- sold goes on selling, and once per product that was drawn; not those that appear after the orders begin.
with chance as (
    select i.product_id as id
    from public.order_item as i
    where i.sales_order_id > (select max(o.id) - 3000 from public.sales_order as o)
    union all
    select drawn.id
    from unnest(%(drawn)s::bigint[]) as drawn (id)
)

select
    p.id,
    (p.price_default * 100)::bigint as price_default,
    (p.price * 100)::bigint as price
from chance
inner join public.product as p on chance.id = p.id
where p.created_at <= %(morning)s
order by p.id
