-- number of runs per day and status in the last thirty days, steps of daily runs included.
-- inputs: audit.run
select
    mart.local_date(run.started_at) as started_date,
    run.status,
    count(*) as run_count
from audit.run as run
where run.started_at > now() - interval '30 days'
group by started_date, run.status
order by started_date asc, run.status asc
