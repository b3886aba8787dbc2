-- One row per promotion that runs at some time of the day.
select
    p.id,
    p.discount_share::double precision as discount_share,
    p.starts_at at time zone 'UTC' as starts_at,
    p.ends_at at time zone 'UTC' as ends_at
from public.promotion as p
where p.starts_at < %(closing)s and p.ends_at > %(opening)s
order by p.id
