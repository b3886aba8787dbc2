-- One row per customer: set a new user name and e-mail address, which are unique since the first user name was.
with login as (
    select
        c.id,
        regexp_replace(c.username, '_[0-9]+$', '') || '_'
        || (coalesce(substring(c.username from '_([0-9]+)$')::integer, 1) + 1) as username
    from public.customer as c
    where c.id = any(%(ids)s::bigint[])
)

update public.customer as c
set
    username = login.username,
    email = login.username || '@example.com'
from login
where c.id = login.id
