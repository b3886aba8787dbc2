-- requests per day and action, in the ninety days up to the newest one.
-- inputs: mart.interactions_by_day
with newest as (
    select max(interaction.request_date) as request_date
    from mart.interactions_by_day as interaction
)

select
    interaction.request_date,
    interaction.action,
    interaction.interaction_count
from newest
inner join mart.interactions_by_day as interaction on interaction.request_date > newest.request_date - 90
order by interaction.request_date, interaction.action
