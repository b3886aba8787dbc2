-- One row per order with more than one line: delete its last line; returns product, distribution center and the units
-- that counted as sold.
with last_line as (
    select
        sales_order_id,
        max(line_number) as line_number
    from public.order_item
    where sales_order_id = any(%(ids)s::bigint[])
    group by sales_order_id
    having count(*) > 1
)

delete from public.order_item as i
using last_line
where i.sales_order_id = last_line.sales_order_id and i.line_number = last_line.line_number
returning
    i.product_id, i.distribution_center_id,
    case when i.status = 'cancelled' then 0 else i.quantity end as quantity,
    'deleted' as event
