-- requests by day of the week and hour, in the four weeks up to the newest one.
-- inputs: mart.interactions_by_hour
-- Requests that are dated in the future are ignored.
with newest as (
    select max(interaction.request_date) as request_date
    from mart.interactions_by_hour as interaction
    where interaction.request_date <= mart.local_date(now())
)

select
    extract(isodow from interaction.request_date)::integer as day_of_week,
    interaction.request_hour,
    sum(interaction.interaction_count)::bigint as interaction_count
from newest
inner join mart.interactions_by_hour as interaction
    on interaction.request_date > newest.request_date - 28 and interaction.request_date <= newest.request_date
group by extract(isodow from interaction.request_date), interaction.request_hour
order by day_of_week, interaction.request_hour
