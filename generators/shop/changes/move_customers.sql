-- One row per customer: set a new delivery address.
update public.customer as c
set
    country = home.country,
    state = home.state,
    latitude = home.latitude,
    longitude = home.longitude
from
    unnest(
        %(ids)s::bigint[],
        %(countries)s::text[],
        %(states)s::text[],
        %(latitudes)s::numeric[],
        %(longitudes)s::numeric[]
    ) as home (id, country, state, latitude, longitude)
where c.id = home.id
