-- One row per drawn customer who exists when the day's orders begin.
select c.id
from public.customer as c
where c.id = any(%(drawn)s::bigint[]) and c.created_at <= %(morning)s
order by c.id
