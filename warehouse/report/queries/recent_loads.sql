-- changes per table in the last eight runs that changed anything.
-- inputs: audit.load
with recent as (
    select distinct load.run_id
    from audit.load as load
    order by load.run_id desc
    limit 8
)

select
    load.run_id,
    load.source,
    load.table_name,
    load.rows_read,
    load.rows_inserted,
    load.rows_updated,
    load.rows_expired,
    load.rows_deleted,
    load.rows_unchanged,
    load.rows_quarantined,
    load.rows_cursor_missed,
    load.seconds
from recent
inner join audit.load as load on recent.run_id = load.run_id
where
    load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted
    + load.rows_quarantined + load.rows_cursor_missed > 0
order by load.run_id desc, load.load_id asc
