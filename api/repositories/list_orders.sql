-- One row per order, newest first, after the position of a cursor; filters that are null do not apply. The next cursor
-- is made from placed_at and id.
select
    sales_order.id,
    sales_order.customer_id,
    sales_order.payment_method_id,
    sales_order.status,
    sales_order.ordered_at,
    sales_order.updated_at,
    coalesce(sales_order.ordered_at, sales_order.created_at)::text as placed_at
from public.sales_order as sales_order
where
    (%(customer_id)s::bigint is null or sales_order.customer_id = %(customer_id)s)
    and (%(status)s::text is null or sales_order.status = %(status)s)
    and (
        %(since)s::timestamptz is null
        or coalesce(sales_order.ordered_at, sales_order.created_at) >= %(since)s::timestamptz
    )
    and (
        %(until)s::timestamptz is null
        or coalesce(sales_order.ordered_at, sales_order.created_at) < %(until)s::timestamptz
    )
    and (
        %(before_id)s::bigint is null
        or (coalesce(sales_order.ordered_at, sales_order.created_at), sales_order.id)
        < (%(before)s::timestamptz, %(before_id)s::bigint)
    )
order by coalesce(sales_order.ordered_at, sales_order.created_at) desc, sales_order.id desc
limit %(rows)s
