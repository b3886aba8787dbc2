-- audit.last_batch(anyelement): the last batch of live that was published by the given run or time; 0 where none was.
-- inputs: audit.batch
create function audit.last_batch(as_of anyelement) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select coalesce(max(batch.batch_id), 0) from audit.batch where batch.load_id <= audit.published_position(as_of)
$$
