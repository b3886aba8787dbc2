-- One row per product and distribution center: subtract the units that it sold, less those that were cancelled; returns
-- the product's id. If stock falls below the reorder point, a delivery of whole lots is added at once if it is on time,
-- and in any case if more was sold than was in stock.
with stock as (
    select
        i.product_id,
        i.distribution_center_id,
        i.quantity - move.taken as quantity,
        %(lot)s * ceil((move.taken * %(cover_days)s + %(reorder_point)s)::numeric / %(lot)s)::integer as delivery,
        move.is_on_time
    from public.inventory as i
    inner join
        unnest(
            %(product_ids)s::bigint[],
            %(distribution_center_ids)s::bigint[],
            %(taken)s::integer[],
            %(are_on_time)s::boolean[]
        ) as move (product_id, distribution_center_id, taken, is_on_time)
        on i.product_id = move.product_id and i.distribution_center_id = move.distribution_center_id
)

update public.inventory as i
set
    quantity = stock.quantity + case
        when stock.quantity < 0 or (stock.quantity < %(reorder_point)s and stock.is_on_time)
            then greatest(stock.delivery, 0)
        else 0
    end
from stock
where i.product_id = stock.product_id and i.distribution_center_id = stock.distribution_center_id
returning i.product_id
