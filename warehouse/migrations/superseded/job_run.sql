-- mart.job_run as it was up to revision 0021: one row per run of a flow, with what it did to the star.
-- inputs: audit.run, audit.load
with load as (
    select
        load.run_id,
        load.table_name,
        load.rows_read,
        load.rows_inserted,
        load.rows_updated,
        load.rows_closed,
        load.rows_deleted,
        load.rows_quarantined,
        load.rows_cursor_missed,
        load.table_name like 'dwh.%' as is_star,
        -- What a run read is counted where it came in: in the mirrors, or in the star where a feed has none.
        load.table_name like 'raw.%'
        or not bool_or(load.table_name like 'raw.%') over (
            partition by load.run_id, load.source
        ) as is_entrance
    from audit.load as load
),

loaded as (
    select
        load.run_id,
        sum(load.rows_read) filter (where load.is_entrance) as rows_read,
        sum(load.rows_inserted) filter (where load.is_star) as rows_inserted,
        sum(load.rows_updated) filter (where load.is_star) as rows_updated,
        sum(load.rows_closed) filter (where load.is_star) as rows_closed,
        sum(load.rows_deleted) filter (where load.is_star) as rows_deleted,
        sum(load.rows_quarantined) as rows_quarantined,
        sum(load.rows_cursor_missed) as rows_cursor_missed
    from load
    group by load.run_id
)

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
    coalesce(loaded.rows_closed, 0)::bigint as rows_closed,
    coalesce(loaded.rows_deleted, 0)::bigint as rows_deleted,
    coalesce(loaded.rows_quarantined, 0)::bigint as rows_quarantined,
    coalesce(loaded.rows_cursor_missed, 0)::bigint as rows_cursor_missed,
    run.error as message,
    run.advice,
    run.prefect_run_id,
    run.code_version
from audit.run as run
left join loaded on run.run_id = loaded.run_id
