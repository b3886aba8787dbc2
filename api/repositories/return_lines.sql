-- Mark lines of a complete order as returned; the order stays complete.
update public.order_item
set
    status = 'returned',
    returned_at = now()
where sales_order_id = %(order_id)s and line_number = any(%(line_numbers)s::integer[]) and status = 'complete'
