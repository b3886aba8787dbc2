-- mart.data_quality: one row per source, dataset and check: its last verdict, and when it last found any.
-- inputs: audit.check_result
with judged as (
    select
        result.source,
        result.dataset,
        result.check_name,
        result.check_type,
        result.column_name,
        result.level,
        result.outcome,
        result.measured,
        result.threshold,
        result.rows_checked,
        result.message,
        result.checked_at,
        result.run_id,
        row_number() over check_history as recency,
        max(result.checked_at) filter (where result.outcome in ('failed', 'warned')) over (
            partition by result.source, result.dataset, result.check_name, result.column_name
        ) as last_found_at
    from audit.check_result as result
    window check_history as (
        partition by result.source, result.dataset, result.check_name, result.column_name
        order by result.check_result_id desc
    )
)

select
    judged.source,
    judged.dataset,
    judged.check_name,
    judged.check_type,
    judged.column_name,
    judged.level,
    judged.outcome,
    judged.measured,
    judged.threshold,
    judged.rows_checked,
    judged.message,
    judged.checked_at,
    judged.last_found_at,
    judged.run_id
from judged
where judged.recency = 1
