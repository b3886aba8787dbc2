-- The order's status; nobody else changes it until this transaction ends.
select sales_order.status
from public.sales_order as sales_order
where sales_order.id = %(order_id)s
for no key update
