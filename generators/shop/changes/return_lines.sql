-- One row per order: its first line comes back alone, the order stays complete.
update public.order_item
set
    status = 'returned',
    returned_at = %(moment)s
where sales_order_id = any(%(ids)s::bigint[]) and line_number = 1 and status = 'complete'
