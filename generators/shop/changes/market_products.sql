-- One row per chance of a product to be sold from a distribution center that stocks it, prices in cents: one chance per
-- line of the latest orders, so that what sold goes on selling, and one per drawn product and center. Products that
-- appear after the day's orders begin have none.
with chance as (
    select
        i.product_id,
        i.distribution_center_id
    from public.order_item as i
    where i.sales_order_id > (select max(o.id) - 3000 from public.sales_order as o)
    union all
    select
        i.product_id,
        i.distribution_center_id
    from public.inventory as i
    where i.product_id = any(%(drawn)s::bigint[])
)

select
    p.id,
    (p.price_default * 100)::bigint as price_default,
    (p.price * 100)::bigint as price,
    i.distribution_center_id
from chance
inner join public.inventory as i
    on chance.product_id = i.product_id and chance.distribution_center_id = i.distribution_center_id
inner join public.product as p on i.product_id = p.id
where p.created_at <= %(morning)s
order by p.id, i.distribution_center_id
