-- weblog_users_not_seen_since_device: takes away pairs of users and devices of whom no request is left.
-- inputs: dwh.agg_weblog_device_user; settings dwh.cutoff, dwh.run_id
with gone as (
    delete from dwh.agg_weblog_device_user as pair
    where pair.last_seen_date < nullif(current_setting('dwh.cutoff', true), '')::date
    returning pair.device_key
),

users_gone as (
    select
        gone.device_key,
        count(*) as user_count
    from gone
    group by gone.device_key
)

update dwh.agg_weblog_device as counted
set
    user_count = counted.user_count - users_gone.user_count,
    run_id = coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint
from users_gone
where counted.device_key = users_gone.device_key
