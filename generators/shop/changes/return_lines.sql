-- One row per order: mark its first line as returned; the order stays complete.
update public.order_item
set
    status = 'returned',
    returned_at = %(moment)s
where sales_order_id = any(%(ids)s::bigint[]) and line_number = 1 and status = 'complete'
