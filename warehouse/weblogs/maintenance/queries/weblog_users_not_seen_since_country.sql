-- weblog_users_not_seen_since_country: takes away pairs of users and countries of whom no request is left.
-- inputs: dwh.agg_weblog_country_user; settings dwh.cutoff, dwh.run_id
with gone as (
    delete from dwh.agg_weblog_country_user as pair
    where pair.last_seen_date < nullif(current_setting('dwh.cutoff', true), '')::date
    returning pair.country
),

users_gone as (
    select
        gone.country,
        count(*) as user_count
    from gone
    group by gone.country
)

update dwh.agg_weblog_country as counted
set
    user_count = counted.user_count - users_gone.user_count,
    run_id = coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint
from users_gone
where counted.country = users_gone.country
