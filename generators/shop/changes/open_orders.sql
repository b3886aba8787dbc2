-- One row per order whose status can still progress, with the number of its lines, which change with it.
select
    o.id,
    o.status,
    count(i.line_number) as line_count
from public.sales_order as o
left join public.order_item as i on o.id = i.sales_order_id
where o.status in ('pending', 'processing', 'shipped')
group by o.id
order by o.id
