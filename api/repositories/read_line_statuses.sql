-- One row per line of the order.
select
    item.line_number,
    item.status
from public.order_item as item
where item.sales_order_id = %(order_id)s
