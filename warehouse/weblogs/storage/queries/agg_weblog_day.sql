-- agg_weblog_day: adds a batch's requests by day and action.
-- inputs: staging.weblog_day; setting dwh.run_id
insert into dwh.agg_weblog_day as counted (request_date, action, request_count, run_id)
select
    batch.request_date,
    batch.action,
    batch.request_count,
    coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
from staging.weblog_day as batch
order by batch.request_date, batch.action
on conflict (request_date, action) do update set
    request_count = counted.request_count + excluded.request_count,
    run_id = excluded.run_id
