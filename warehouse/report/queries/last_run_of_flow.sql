-- the last run of each flow, with its status.
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
    known.flow,
    last.run_id,
    last.status,
    last.started_at,
    last.error,
    last.hint
from known
cross join
    lateral (
        select run.*
        from audit.run as run
        where run.flow = known.flow
        order by run.run_id desc
        limit 1
    ) as last
order by known.flow asc
