-- agg_weblog_country: adds a batch's requests, and the users seen for the first time in a country.
-- inputs: staging.weblog_country, staging.weblog_country_user; setting dwh.run_id
with users_seen as (
    insert into dwh.agg_weblog_country_user as pair (country, web_user_key, last_seen_date, run_id)
    select
        batch.country,
        batch.web_user_key,
        batch.last_seen_date,
        coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
    from staging.weblog_country_user as batch
    -- Most pairs were seen on that day before: these are not even locked.
    where not exists (
            select 1
            from dwh.agg_weblog_country_user as known
            where
                known.country = batch.country
                and known.web_user_key = batch.web_user_key
                and coalesce(known.last_seen_date, 'infinity') >= batch.last_seen_date
        )
    order by batch.country, batch.web_user_key
    on conflict (country, web_user_key) do update
        set last_seen_date = excluded.last_seen_date
        where pair.last_seen_date < excluded.last_seen_date
    -- A row that was inserted, not updated, has no xmax.
    returning pair.country, pair.xmax = 0 as is_new
),

users_counted as (
    select
        users_seen.country,
        count(*) as user_count
    from users_seen
    where users_seen.is_new
    group by users_seen.country
)

insert into dwh.agg_weblog_country as counted (country, request_count, user_count, run_id)
select
    batch.country,
    batch.request_count,
    coalesce(users_counted.user_count, 0) as user_count,
    coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
from staging.weblog_country as batch
left join users_counted on batch.country = users_counted.country
order by batch.country
on conflict (country) do update set
    request_count = counted.request_count + excluded.request_count,
    user_count = counted.user_count + excluded.user_count,
    run_id = excluded.run_id
