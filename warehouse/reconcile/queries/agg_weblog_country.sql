-- agg_weblog_country: requests and distinct logged users per country, as the fact has them.
-- inputs: dwh.fact_weblog
with per_user as (
    select
        weblog.country,
        weblog.web_user_key,
        count(*) as request_count
    from dwh.fact_weblog as weblog
    group by weblog.country, weblog.web_user_key
)

select
    per_user.country,
    sum(per_user.request_count)::bigint as request_count,
    count(*) filter (where per_user.web_user_key <> 0) as user_count
from per_user
group by per_user.country
