-- the last run of each flow, with its status.
-- inputs: audit.run
select distinct on (run.flow)
    run.flow,
    run.run_id,
    run.status,
    run.started_at,
    run.error,
    run.hint
from audit.run as run
order by run.flow asc, run.run_id desc
