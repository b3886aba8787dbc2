-- number of runs per day (UTC) and status in the last thirty days, steps of daily runs included.
-- inputs: audit.run
select
    (run.started_at at time zone 'UTC')::date as started_date,
    run.status,
    count(*) as run_count
from audit.run as run
where run.started_at > now() - interval '30 days'
group by started_date, run.status
order by started_date asc, run.status asc
