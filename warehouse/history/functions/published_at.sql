-- audit.published_at(bigint): when the run published its last table.
-- inputs: audit.load
create function audit.published_at(as_of_run_id bigint) returns timestamptz
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select max(loaded_at) from audit.load where run_id = as_of_run_id $$
