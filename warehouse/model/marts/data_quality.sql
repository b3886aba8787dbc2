-- mart.data_quality: one row per source, dataset and check: its last verdict, and when it last found any.
-- inputs: audit.check_result
-- Loose index scans, backwards, find the last results of each check: there are few checks and many results.
with recursive last as (
    (
        select
            newest.source,
            newest.dataset,
            newest.check_name,
            coalesce(newest.column_name, '') as column_name,
            newest.check_result_id
        from audit.check_result as newest
        order by
            newest.source desc, newest.dataset desc, newest.check_name desc, coalesce(newest.column_name, '') desc,
            newest.check_result_id desc
        limit 1
    )
    union all
    select previous.*
    from last
    cross join lateral (
        select
            one.source,
            one.dataset,
            one.check_name,
            coalesce(one.column_name, '') as column_name,
            one.check_result_id
        from audit.check_result as one
        where
            (one.source, one.dataset, one.check_name, coalesce(one.column_name, ''))
            < (last.source, last.dataset, last.check_name, last.column_name)
        order by
            one.source desc, one.dataset desc, one.check_name desc, coalesce(one.column_name, '') desc,
            one.check_result_id desc
        limit 1
    ) as previous
),

last_found as (
    (
        select
            newest.source,
            newest.dataset,
            newest.check_name,
            coalesce(newest.column_name, '') as column_name,
            newest.check_result_id
        from audit.check_result as newest
        where newest.outcome in ('failed', 'warned')
        order by
            newest.source desc, newest.dataset desc, newest.check_name desc, coalesce(newest.column_name, '') desc,
            newest.check_result_id desc
        limit 1
    )
    union all
    select previous.*
    from last_found
    cross join lateral (
        select
            one.source,
            one.dataset,
            one.check_name,
            coalesce(one.column_name, '') as column_name,
            one.check_result_id
        from audit.check_result as one
        where
            one.outcome in ('failed', 'warned')
            and (one.source, one.dataset, one.check_name, coalesce(one.column_name, ''))
            < (last_found.source, last_found.dataset, last_found.check_name, last_found.column_name)
        order by
            one.source desc, one.dataset desc, one.check_name desc, coalesce(one.column_name, '') desc,
            one.check_result_id desc
        limit 1
    ) as previous
)

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
    found.checked_at as last_found_at,
    result.run_id
from last
inner join audit.check_result as result on last.check_result_id = result.check_result_id
left join last_found
    on last.source = last_found.source and last.dataset = last_found.dataset
    and last.check_name = last_found.check_name and last.column_name = last_found.column_name
left join audit.check_result as found on last_found.check_result_id = found.check_result_id
