-- audit.current_run_id(): the run whose transaction this is; null where somebody works by hand.
-- inputs: the setting dwh.run_id
create function audit.current_run_id() returns bigint language sql stable
as $$ select substring(current_setting('dwh.run_id', true) from '^[0-9]{1,18}$')::bigint $$
