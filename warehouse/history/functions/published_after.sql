-- audit.published_after(bigint): one row per run that published after the given one.
-- inputs: audit.run, audit.load
create function audit.published_after(as_of_run_id bigint)
returns table (run_id bigint) language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $body$
declare
    as_of audit.run;
    last_load_id bigint;
begin
    select * into as_of from audit.run where audit.run.run_id = as_of_run_id;
    select max(load_id) into last_load_id from audit.load where load.run_id = as_of_run_id;
    if as_of.run_id is null then
        raise exception 'There is no run %.', as_of_run_id using hint = 'mart.job_run lists them.';
    elsif last_load_id is null then
        raise exception 'Run % (%) published nothing: it is %.', as_of_run_id, as_of.flow, as_of.status
            using hint = 'Name the last run before it that succeeded; mart.job_run lists them.';
    elsif as_of.pruned_at is not null then
        raise exception 'The change log no longer goes back to run %: it was pruned at % UTC.',
            as_of_run_id, to_char(as_of.pruned_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
            using hint = 'DWH_CHANGE_LOG_DAYS says how long it is kept.';
    end if;
    -- Loads are numbered under the lock that lets one run publish at a time: their order is that of the commits.
    return query
        select distinct load.run_id from audit.load where load_id > last_load_id and load.run_id <> as_of_run_id;
end
$body$
