-- the last forty ended runs of each flow, oldest first, with status and duration.
-- inputs: audit.run
with ended as (
    select
        run.flow,
        run.run_id,
        run.status,
        run.started_at,
        extract(epoch from run.ended_at - run.started_at)::double precision as duration_seconds,
        row_number() over (partition by run.flow order by run.run_id desc) as newest_rank
    from audit.run as run
    where run.ended_at is not null
)

select
    ended.flow,
    ended.run_id,
    ended.status,
    ended.started_at,
    ended.duration_seconds
from ended
where ended.newest_rank <= 40
order by ended.flow asc, ended.run_id asc
