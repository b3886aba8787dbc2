-- One row per line of the orders: set the status of its order, unless the line was returned before; returns product,
-- distribution center, units and the new status.
update public.order_item as i
set
    status = next.status,
    returned_at = case when next.status = 'returned' then %(moment)s::timestamptz end
from unnest(%(ids)s::bigint[], %(statuses)s::text[]) as next (id, status)
where
    i.sales_order_id = next.id
    and i.status is distinct from next.status
    and i.status is distinct from 'returned'
returning i.product_id, i.distribution_center_id, i.quantity, i.status as event
