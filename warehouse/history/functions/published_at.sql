-- audit.published_at(anyelement): when the given run published its last table; a time is returned as it is.
-- inputs: audit.load
create function audit.published_at(as_of anyelement) returns timestamptz
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $body$
begin
    if pg_typeof(as_of) in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) then
        return as_of::text::timestamptz;
    end if;
    return (select max(load.loaded_at) from audit.load where load.run_id = as_of::text::bigint);
end
$body$
