-- agg_weblog_device: adds a batch's requests, and the users seen for the first time on a device.
-- inputs: staging.weblog_device, staging.weblog_device_user; setting dwh.run_id
with users_seen as (
    insert into dwh.agg_weblog_device_user as pair (device_key, web_user_key, last_seen_date, run_id)
    select
        batch.device_key,
        batch.web_user_key,
        batch.last_seen_date,
        coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
    from staging.weblog_device_user as batch
    -- Most pairs were seen on that day before: these are not even locked.
    where not exists (
            select 1
            from dwh.agg_weblog_device_user as known
            where
                known.device_key = batch.device_key
                and known.web_user_key = batch.web_user_key
                and coalesce(known.last_seen_date, 'infinity') >= batch.last_seen_date
        )
    order by batch.device_key, batch.web_user_key
    on conflict (device_key, web_user_key) do update
        set last_seen_date = excluded.last_seen_date
        where pair.last_seen_date < excluded.last_seen_date
    -- A row that was inserted, not updated, has no xmax.
    returning pair.device_key, pair.xmax = 0 as is_new
),

users_counted as (
    select
        users_seen.device_key,
        count(*) as user_count
    from users_seen
    where users_seen.is_new
    group by users_seen.device_key
)

insert into dwh.agg_weblog_device as counted (device_key, request_count, user_count, run_id)
select
    batch.device_key,
    batch.request_count,
    coalesce(users_counted.user_count, 0) as user_count,
    coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
from staging.weblog_device as batch
left join users_counted on batch.device_key = users_counted.device_key
order by batch.device_key
on conflict (device_key) do update set
    request_count = counted.request_count + excluded.request_count,
    user_count = counted.user_count + excluded.user_count,
    run_id = excluded.run_id
