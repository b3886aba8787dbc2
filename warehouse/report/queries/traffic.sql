-- requests per day and action, in the ninety days up to the newest one.
-- inputs: mart.interactions_by_day
-- Requests that are dated in the future are ignored.
with newest as (
    select max(interaction.request_date) as request_date
    from mart.interactions_by_day as interaction
    where interaction.request_date <= mart.local_date(now())
)

select
    interaction.request_date,
    interaction.action,
    interaction.interaction_count
from newest
inner join mart.interactions_by_day as interaction
    on interaction.request_date > newest.request_date - 90 and interaction.request_date <= newest.request_date
order by interaction.request_date, interaction.action
