-- mart.data_quality_history: one row per check and run: what it found then.
-- inputs: audit.check_result, audit.run
select
    result.check_result_id,
    result.run_id,
    run.flow,
    result.source,
    result.dataset,
    result.check_name,
    result.column_name,
    result.level,
    result.outcome,
    result.measured,
    result.rows_checked,
    result.measured / nullif(result.rows_checked, 0) as measured_share,
    result.checked_at
from audit.check_result as result
inner join audit.run as run on result.run_id = run.run_id
