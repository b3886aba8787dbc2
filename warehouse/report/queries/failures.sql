-- failures of the last thirty days, newest first: one row per flow, status and message, at most twenty.
-- inputs: audit.run
select
    run.flow,
    run.status,
    run.error as message,
    count(*) as run_count,
    min(run.started_at) as first_at,
    max(run.started_at) as last_at
from audit.run as run
where run.status in ('failed', 'stopped', 'crashed') and run.started_at > now() - interval '30 days'
group by run.flow, run.status, run.error
order by last_at desc, run.flow asc
limit 20
