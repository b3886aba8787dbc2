-- mart.interactions_by_day: requests per day, in the company's time zone, and action.
-- inputs: dwh.agg_weblog_quarter_hour
select
    mart.local_date(counted.quarter_hour_at) as request_date,
    counted.action,
    sum(counted.request_count)::bigint as interaction_count
from dwh.agg_weblog_quarter_hour as counted
group by mart.local_date(counted.quarter_hour_at), counted.action
