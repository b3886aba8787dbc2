-- One row per customer: set the drawn loyalty tier or, if the customer has it already, another one.
update public.customer as c
set
    loyalty_tier = case
        when c.loyalty_tier <> next.tier then next.tier
        when c.loyalty_tier = 'bronze' then 'silver'
        else 'bronze'
    end
from unnest(%(ids)s::bigint[], %(tiers)s::text[]) as next (id, tier)
where c.id = next.id
