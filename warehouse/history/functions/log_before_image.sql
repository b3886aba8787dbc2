-- audit.log_before_image(): trigger that keeps the rows of a statement as they were, in audit.before_image, for undo.
-- inputs: the statement's transition table old_rows
-- Settings are fixed, since casts to text must not depend on those of the session that changes a row.
create function audit.log_before_image() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set lc_monetary = 'C'
set extra_float_digits = 1 set bytea_output = 'hex' set jit = off
as $body$
declare
    full_name constant text := tg_table_schema || '.' || tg_table_name;
begin
    if tg_op <> 'TRUNCATE' then
        if not exists (select from old_rows) then
            return null;
        end if;
    end if;
    -- An undo cannot be undone: its own changes need no images.
    if current_setting('dwh.is_undo', true) = 'on' then
        return null;
    end if;
    execute format(
        $$
        insert into audit.before_image
            (table_name, operation, row_key, run_id, database_user, changed_at, row_schema_id, before)
        select $1, $2, array[%s]::text[], $3, session_user, $4, $5, %s from %s as old_row
        $$,
        audit.format_key_columns(tg_relid, 'old_row.%I::text', ', '), audit.row_values(tg_relid, 'old_row'),
        case when tg_op = 'TRUNCATE' then format('%I.%I', tg_table_schema, tg_table_name) else 'old_rows' end
    ) using full_name, lower(tg_op), audit.current_run_id(), clock_timestamp(), audit.row_schema_id(tg_relid);
    return null;
end
$body$
