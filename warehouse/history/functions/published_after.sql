-- audit.published_after(anyelement): one row per run that published everything after the given run or time.
-- inputs: audit.load, audit.batch
-- A run of live that had published some batches by then is not among them: see audit.last_batch().
create function audit.published_after(as_of anyelement)
returns table (run_id bigint) language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $body$
declare
    last_load_id constant bigint := audit.published_position(as_of);
begin
    return query
        select distinct load.run_id from audit.load
        where load.load_id > last_load_id and not exists (
            select from audit.batch where batch.run_id = load.run_id and batch.load_id <= last_load_id
        );
end
$body$
