-- audit.log_change(): trigger that logs the rows of a statement, before and after, in audit.change.
-- inputs: the statement's transition tables old_rows and new_rows
-- Settings are fixed, since casts to text must not depend on those of the session that changes a row.
create function audit.log_change() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set lc_monetary = 'C'
set extra_float_digits = 1 set bytea_output = 'hex' set jit = off
as $body$
declare
    full_name constant text := tg_table_schema || '.' || tg_table_name;
    statement text;
begin
    if tg_op <> 'TRUNCATE' then
        if not exists (select from old_rows) then
            return null;
        end if;
    end if;
    if tg_op = 'UPDATE' then
        -- A row whose key was changed has become another row.
        statement := format(
            $$
            insert into audit.change
                (table_name, operation, row_key, run_id, database_user, changed_at, row_schema_id, before, after)
            select
                $1, case when after is null then 'delete' when before is null then 'insert' else 'update' end,
                row_key, $3, session_user, $4, $5, before, after
            from (
                select
                    case when old_row.is_there then array[%s] else array[%s] end as row_key,
                    case when old_row.is_there then %s end as before,
                    case when new_row.is_there then %s end as after
                from (select *, true as is_there from old_rows) as old_row
                full join (select *, true as is_there from new_rows) as new_row on %s
            ) as image
            where before is distinct from after
            $$,
            audit.format_key_columns(tg_relid, 'old_row.%I::text', ', '),
            audit.format_key_columns(tg_relid, 'new_row.%I::text', ', '),
            audit.row_values(tg_relid, 'old_row'), audit.row_values(tg_relid, 'new_row'),
            audit.format_key_columns(tg_relid, 'old_row.%1$I = new_row.%1$I', ' and ')
        );
    else
        statement := format(
            $$
            insert into audit.change
                (table_name, operation, row_key, run_id, database_user, changed_at, row_schema_id, before)
            select $1, $2, array[%s], $3, session_user, $4, $5, %s from %s as old_row
            $$,
            audit.format_key_columns(tg_relid, 'old_row.%I::text', ', '), audit.row_values(tg_relid, 'old_row'),
            case when tg_op = 'DELETE' then 'old_rows' else format('%I.%I', tg_table_schema, tg_table_name) end
        );
    end if;
    execute statement using
        full_name, lower(tg_op), audit.current_run_id(), clock_timestamp(), audit.row_schema_id(tg_relid);
    return null;
end
$body$
