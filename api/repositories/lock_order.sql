-- Lock an order until the end of this transaction, and read its status.
select sales_order.status
from public.sales_order as sales_order
where sales_order.id = %(order_id)s
for no key update
