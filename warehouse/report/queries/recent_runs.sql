-- the last twelve runs, newest first.
-- inputs: mart.job_run
select
    job.run_id,
    job.flow,
    job.launched_by,
    job.status,
    job.started_at,
    job.duration_seconds,
    job.rows_read,
    job.rows_inserted,
    job.rows_updated,
    job.rows_expired,
    job.rows_deleted,
    job.rows_quarantined,
    job.rows_cursor_missed,
    job.message,
    job.hint
from mart.job_run as job
order by job.run_id desc
limit 12
