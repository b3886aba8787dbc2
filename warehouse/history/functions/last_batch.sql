-- audit.last_batch(anyelement): the last batch of live that was published by the given run or time; 0 where none was.
-- inputs: audit.batch
create function audit.last_batch(as_of anyelement) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $body$
declare
    -- Also where there is no batch: it refuses what cannot be asked about.
    last_load_id constant bigint := audit.published_position(as_of);
begin
    return (select coalesce(max(batch.batch_id), 0) from audit.batch where batch.load_id <= last_load_id);
end
$body$
