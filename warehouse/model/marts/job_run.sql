-- mart.job_run: one row per run of a flow, with what it and the steps that it ran did to the star.
-- inputs: audit.run, audit.load
select
    run.run_id,
    run.flow,
    run.deployment,
    run.launched_by,
    run.status,
    run.started_at,
    run.ended_at,
    extract(epoch from run.ended_at - run.started_at)::double precision as duration_seconds,
    coalesce(loaded.rows_read, 0)::bigint as rows_read,
    coalesce(loaded.rows_inserted, 0)::bigint as rows_inserted,
    coalesce(loaded.rows_updated, 0)::bigint as rows_updated,
    coalesce(loaded.rows_expired, 0)::bigint as rows_expired,
    coalesce(loaded.rows_deleted, 0)::bigint as rows_deleted,
    coalesce(loaded.rows_quarantined, 0)::bigint as rows_quarantined,
    coalesce(loaded.rows_cursor_missed, 0)::bigint as rows_cursor_missed,
    run.error as message,
    run.hint,
    run.prefect_run_id,
    run.code_version,
    run.parent_run_id,
    run.resumes_run_id
from audit.run as run
left join lateral (
    select
        -- Rows read are counted once: in the mirrors, or in the star for sources without mirrors.
        sum(load.rows_read) filter (
            where load.table_name like 'raw.%'
            or load.table_name like 'dwh.%'
            and not exists (
                select 1
                from audit.load as mirrored
                where
                    mirrored.run_id = load.run_id
                    and mirrored.source = load.source
                    and mirrored.table_name like 'raw.%'
            )
        ) as rows_read,
        sum(load.rows_inserted) filter (where load.table_name like 'dwh.%') as rows_inserted,
        sum(load.rows_updated) filter (where load.table_name like 'dwh.%') as rows_updated,
        sum(load.rows_expired) filter (where load.table_name like 'dwh.%') as rows_expired,
        sum(load.rows_deleted) filter (where load.table_name like 'dwh.%') as rows_deleted,
        sum(load.rows_quarantined) as rows_quarantined,
        sum(load.rows_cursor_missed) as rows_cursor_missed
    from audit.load as load
    inner join audit.run as part on load.run_id = part.run_id
    where run.run_id = part.run_id or run.run_id = part.parent_run_id
) as loaded on true
