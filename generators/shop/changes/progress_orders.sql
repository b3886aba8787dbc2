-- One row per order: set its next status.
update public.sales_order as o
set status = next.status
from unnest(%(ids)s::bigint[], %(statuses)s::text[]) as next (id, status)
where o.id = next.id and o.status is distinct from next.status
