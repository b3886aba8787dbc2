-- One row per line of the order; one row with an empty line where it has none.
select
    sales_order.id,
    sales_order.customer_id,
    sales_order.payment_method_id,
    sales_order.status,
    sales_order.ordered_at,
    sales_order.updated_at,
    item.line_number,
    item.product_id,
    item.quantity,
    item.status as line_status,
    item.unit_price,
    item.discount_amount,
    item.quantity * item.unit_price - item.discount_amount as amount,
    product.currency,
    item.promotion_id,
    item.distribution_center_id,
    item.returned_at
from public.sales_order as sales_order
left join public.order_item as item on sales_order.id = item.sales_order_id
left join public.product as product on item.product_id = product.id
where sales_order.id = %(order_id)s
order by item.line_number
