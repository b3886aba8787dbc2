-- the last forty ended runs of each flow, oldest first, with status and duration.
-- inputs: audit.run
-- The flows are found by skipping through the index.
with recursive known as (
    (
        select first.flow
        from audit.run as first
        order by first.flow
        limit 1
    )
    union all
    select next.flow
    from known
    cross join lateral (
        select run.flow
        from audit.run as run
        where run.flow > known.flow
        order by run.flow
        limit 1
    ) as next
)

select
    ended.flow,
    ended.run_id,
    ended.status,
    ended.started_at,
    extract(epoch from ended.ended_at - ended.started_at)::double precision as duration_seconds
from known
cross join
    lateral (
        select run.*
        from audit.run as run
        where run.flow = known.flow and run.ended_at is not null
        order by run.run_id desc
        limit 40
    ) as ended
order by ended.flow asc, ended.run_id asc
