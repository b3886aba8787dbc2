-- Insert an order and its lines; columns that are not named get the shop's defaults.
with new_order as (
    insert into public.sales_order (id, customer_id, payment_method_id, ordered_at)
    values (%(order_id)s, %(customer_id)s, %(payment_method_id)s, now())
)

insert into public.order_item (
    sales_order_id, line_number, product_id, promotion_id, distribution_center_id, quantity, unit_price_default,
    unit_price, discount_amount, status
)
select
    %(order_id)s as sales_order_id,
    line.line_number,
    line.product_id,
    %(running_promotion_id)s as promotion_id,
    line.distribution_center_id,
    line.quantity,
    line.unit_price_default,
    line.unit_price,
    line.discount_amount,
    'pending' as status
from unnest(
        %(product_ids)s::bigint[],
        %(distribution_center_ids)s::bigint[],
        %(quantities)s::integer[],
        %(unit_prices_default)s::numeric[],
        %(unit_prices)s::numeric[],
        %(discount_amounts)s::numeric[]
    ) with ordinality as line (
        product_id, distribution_center_id, quantity, unit_price_default, unit_price, discount_amount, line_number
    )
