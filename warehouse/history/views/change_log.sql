-- audit.change_log: one row per row of the star that was updated or deleted, with its columns by name.
-- inputs: audit.change, audit.row_schema, audit.run, audit.batch
select
    change.change_id,
    change.changed_at,
    change.table_name,
    change.operation,
    change.row_key,
    change.run_id,
    change.batch_id,
    batch.batch_number,
    run.flow,
    change.database_user,
    case
        when change.operation = 'update' then array(
                select cell.name from unnest(row_schema.columns, change.before, change.after) as cell (name, old, new)
                where cell.old is distinct from cell.new
            )
    end as changed_columns,
    jsonb_object(row_schema.columns, change.before) as before,
    jsonb_object(row_schema.columns, change.after) as after
from audit.change
inner join audit.row_schema on change.row_schema_id = row_schema.row_schema_id
left join audit.run on change.run_id = run.run_id
left join audit.batch on change.batch_id = batch.batch_id
