-- Set the status of an order and of its lines, except lines that were returned before.
with changed_order as (
    update public.sales_order
    set status = %(status)s
    where id = %(order_id)s
)

update public.order_item
set
    status = %(status)s,
    returned_at = case when %(status)s = 'returned' then now() end
where
    sales_order_id = %(order_id)s
    and status is distinct from %(status)s
    and status is distinct from 'returned'
