-- What a new order depends on: one row per requested product, in the order of the request. Each row has the product's
-- prices and the distribution center with most units of it (null if there is none), and repeats the id of the new order,
-- whether customer and payment method exist, and the running promotion with the largest discount.
with request as materialized (
    select
        nextval('public.sales_order_id_seq') as order_id,
        now() as placed_at,
        exists(
            select from public.customer
            where id = %(customer_id)s
        ) as has_customer,
        exists(
            select from public.payment_method
            where id = %(payment_method_id)s
        ) as has_payment_method
),

running_promotion as materialized (
    select
        id,
        discount_share
    from public.promotion
    where starts_at <= now() and ends_at > now() and discount_share between 0 and 1
    order by discount_share desc, id asc
    limit 1
)

select
    request.order_id,
    request.placed_at,
    request.has_customer,
    request.has_payment_method,
    running_promotion.id as promotion_id,
    running_promotion.discount_share,
    product.price_default,
    product.price,
    product.currency,
    center.distribution_center_id
from unnest(%(product_ids)s::bigint[]) with ordinality as requested (product_id, position)
cross join request
left join running_promotion on true
left join public.product as product on requested.product_id = product.id
left join lateral (
    select inventory.distribution_center_id
    from public.inventory as inventory
    where inventory.product_id = product.id
    order by inventory.quantity desc, inventory.distribution_center_id asc
    limit 1
) as center on true
order by requested.position
