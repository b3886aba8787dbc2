-- One row per line of the orders: delete it; returns product, distribution center and the units that counted as sold.
delete from public.order_item
where sales_order_id = any(%(ids)s::bigint[])
returning
    product_id, distribution_center_id,
    case when status = 'cancelled' then 0 else quantity end as quantity,
    'deleted' as event
