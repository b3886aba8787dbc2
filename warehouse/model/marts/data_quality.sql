-- mart.data_quality: one row per source, dataset and check: its last verdict, and when it last found any.
-- inputs: audit.check_result
-- The checks are found by skipping through the index: a trail of years has few of them.
with recursive checked as (
    (
        select
            first.source,
            first.dataset,
            first.check_name,
            coalesce(first.column_name, '') as column_name
        from audit.check_result as first
        order by first.source asc, first.dataset asc, first.check_name asc, coalesce(first.column_name, '') asc
        limit 1
    )
    union all
    select
        next.source,
        next.dataset,
        next.check_name,
        next.column_name
    from checked
    cross join lateral (
        select
            result.source,
            result.dataset,
            result.check_name,
            coalesce(result.column_name, '') as column_name
        from audit.check_result as result
        where
            (result.source, result.dataset, result.check_name, coalesce(result.column_name, ''))
            > (checked.source, checked.dataset, checked.check_name, checked.column_name)
        order by
            result.source asc, result.dataset asc, result.check_name asc, coalesce(result.column_name, '') asc
        limit 1
    ) as next
)

select
    last.source,
    last.dataset,
    last.check_name,
    last.check_type,
    last.column_name,
    last.level,
    last.outcome,
    last.measured,
    last.threshold,
    last.rows_checked,
    last.message,
    last.checked_at,
    found.last_found_at,
    last.run_id
from checked
cross join
    lateral (
        select result.*
        from audit.check_result as result
        where
            result.source = checked.source and result.dataset = checked.dataset
            and result.check_name = checked.check_name and coalesce(result.column_name, '') = checked.column_name
        order by result.check_result_id desc
        limit 1
    ) as last
left join lateral (
    select result.checked_at as last_found_at
    from audit.check_result as result
    where
        result.source = checked.source and result.dataset = checked.dataset
        and result.check_name = checked.check_name and coalesce(result.column_name, '') = checked.column_name
        and result.outcome in ('failed', 'warned')
    order by result.check_result_id desc
    limit 1
) as found on true
