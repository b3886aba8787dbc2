-- One row per customer: the loyalty tier that was drawn, or where that is today's, a neighbour of it.
update public.customer as c
set
    loyalty_tier = case
        when c.loyalty_tier <> next.tier then next.tier
        when c.loyalty_tier = 'bronze' then 'silver'
        else 'bronze'
    end
from unnest(%(ids)s::bigint[], %(tiers)s::text[]) as next (id, tier)
where c.id = next.id
