-- weblog_users_recounted: closes the pairs that moves have opened: gone where no request is left, else seen last then.
-- inputs: dwh.fact_weblog; setting dwh.run_id
with opened as (
    select
        pair.country,
        pair.web_user_key
    from dwh.agg_weblog_country_user as pair
    where pair.last_seen_date is null
),

left_over as (
    select
        opened.country,
        opened.web_user_key,
        max((weblog.requested_at at time zone 'UTC')::date) as last_seen_date
    from opened
    left join
        dwh.fact_weblog as weblog
        on opened.country = weblog.country and opened.web_user_key = weblog.web_user_key
    group by opened.country, opened.web_user_key
),

kept as (
    update dwh.agg_weblog_country_user as pair
    set last_seen_date = left_over.last_seen_date
    from left_over
    where pair.country = left_over.country and pair.web_user_key = left_over.web_user_key
        and left_over.last_seen_date is not null
),

gone as (
    delete from dwh.agg_weblog_country_user as pair
    using left_over
    where pair.country = left_over.country and pair.web_user_key = left_over.web_user_key
        and left_over.last_seen_date is null
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
