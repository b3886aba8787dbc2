-- audit.published_position(anyelement): last load_id that was published by the given run, or up to the given time.
-- inputs: audit.run, audit.load, audit.batch
-- Only one run publishes at a time, and loads are numbered under its lock: their order is that of the commits.
create function audit.published_position(as_of anyelement) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $body$
declare
    run audit.run;
    moment timestamptz;
    last_load_id bigint;
begin
    if pg_typeof(as_of) in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) then
        moment := as_of::text::timestamptz;
        select greatest(
            (select max(load_id) from audit.load where load.loaded_at <= moment),
            (select max(batch.load_id) from audit.batch where batch.published_at <= moment)
        ) into last_load_id;
        if last_load_id is null then
            raise exception 'Nothing had been published at % UTC.', to_char(moment at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
                using hint = 'mart.job_run lists the runs.';
        end if;
        select pruned.* into run from audit.run as pruned
        where pruned.pruned_at is not null
            and exists (select from audit.load where load.run_id = pruned.run_id and load.load_id >= last_load_id)
        order by pruned.run_id limit 1;
        if run.run_id is not null then
            raise exception 'The change log no longer goes back to % UTC: it was pruned at % UTC.',
                to_char(moment at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
                to_char(run.pruned_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
                using hint = 'DWH_CHANGE_LOG_DAYS says how long it is kept.';
        end if;
        return last_load_id;
    end if;
    select * into run from audit.run where audit.run.run_id = as_of::text::bigint;
    select max(load_id) into last_load_id from audit.load where load.run_id = as_of::text::bigint;
    if run.run_id is null then
        raise exception 'There is no run %.', as_of using hint = 'mart.job_run lists them.';
    elsif last_load_id is null then
        raise exception 'Run % (%) published nothing: it is %.', as_of, run.flow, run.status
            using hint = 'Name the last run before it that succeeded; mart.job_run lists them.';
    elsif run.pruned_at is not null then
        raise exception 'The change log no longer goes back to run %: it was pruned at % UTC.',
            as_of, to_char(run.pruned_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
            using hint = 'DWH_CHANGE_LOG_DAYS says how long it is kept.';
    end if;
    return last_load_id;
end
$body$
