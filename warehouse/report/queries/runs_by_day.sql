-- one row per day (UTC) and way to end, of the thirty days up to today: how many runs, steps of a day included.
-- inputs: audit.run
select
    (run.started_at at time zone 'UTC')::date as started_date,
    run.status,
    count(*) as run_count
from audit.run as run
where run.started_at > now() - interval '30 days'
group by started_date, run.status
order by started_date asc, run.status asc
