-- mart.interactions_by_day: requests per day and action.
-- inputs: dwh.agg_weblog_day
select
    counted.request_date,
    counted.action,
    counted.request_count as interaction_count
from dwh.agg_weblog_day as counted
