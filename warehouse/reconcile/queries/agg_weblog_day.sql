-- agg_weblog_day: requests per day and action, as the fact has them.
-- inputs: dwh.fact_weblog, dwh.dim_request
with per_request as (
    select
        weblog.request_key,
        (weblog.requested_at at time zone 'UTC')::date as request_date,
        count(*) as request_count
    from dwh.fact_weblog as weblog
    group by weblog.request_key, (weblog.requested_at at time zone 'UTC')::date
)

select
    per_request.request_date,
    request.action,
    sum(per_request.request_count)::bigint as request_count
from per_request
inner join dwh.dim_request as request on per_request.request_key = request.request_key
group by per_request.request_date, request.action
