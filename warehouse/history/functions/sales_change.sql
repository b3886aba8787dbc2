-- audit.sales_change(bigint, bigint): one row per source, month, currency, cause and run by which sales differ.
-- inputs: the earlier run, the later run; audit.change_log, audit.run, dwh.fact_order_item
-- A sale is a line that was not cancelled, in its order's month (UTC), as in mart.sales_by_month. The changes of each
-- month add up to the difference of its totals, to the cent.
create function audit.sales_change(earlier_run_id bigint, later_run_id bigint)
returns table (
    source_system text, month date, currency text, cause text, run_id bigint, flow text, line_count bigint,
    net_amount numeric, returned_net_amount numeric
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
with later as materialized (
    select published.run_id from audit.published_after(earlier_run_id) as published
),

between_them as materialized (
    select later.run_id from later
    except
    select published.run_id from audit.published_after(later_run_id) as published
),

-- Batches of live between them: the first of these is not, the second one is.
batches (after_id, last_id) as materialized (
    select audit.last_batch(earlier_run_id), audit.last_batch(later_run_id)
),

-- Every change of a line since the earlier run, with what came next for the same line.
logged as materialized (
    select
        change.row_key,
        change.operation,
        change.run_id,
        change.batch_id,
        change.flow,
        change.changed_at,
        change.before,
        change.after,
        row_number() over line = 1 as is_first,
        lead(change.change_id) over line is null as is_last,
        lead(change.operation) over line as next_operation,
        lead(change.before) over line as next_before
    from audit.change_log as change
    where change.table_name = 'dwh.fact_order_item'
        and (
            change.run_id in (select later.run_id from later)
            or change.batch_id > (select batches.after_id from batches)
            or change.run_id is null and change.changed_at > audit.published_at(earlier_run_id)
        )
    window line as (partition by change.row_key order by change.change_id)
),

-- Inserts are not logged: a line is new where it exists and the log has no earlier state of it.
inserted as (
    select logged.before as line
    from logged
    where logged.is_first and (
        (logged.before ->> 'run_id')::bigint in (select later.run_id from later)
        or (logged.before ->> 'batch_id')::bigint > (select batches.after_id from batches)
    )
    union all
    select logged.next_before
    from logged
    where logged.after is null and logged.next_operation <> 'insert'
    union all
    select to_jsonb(now)
    from dwh.fact_order_item as now
    left join logged
        on logged.is_last and logged.row_key = array[now.order_id, now.line_id, now.source_system]
    where logged.after is null and (
        now.run_id in (select later.run_id from later) or now.batch_id > (select batches.after_id from batches)
    )
),

happened as (
    select
        logged.run_id,
        logged.flow,
        logged.before,
        logged.after,
        case
            when logged.flow = 'undo' then 'undone'
            when logged.run_id is null then 'by hand'
            when logged.after is null then 'deletion'
            when logged.after ->> 'status' = 'returned' and logged.before ->> 'status' <> 'returned' then 'return'
            when logged.after ->> 'status' = 'cancelled' and logged.before ->> 'status' <> 'cancelled' then 'cancellation'
            else 'correction'
        end as cause
    from logged
    where logged.batch_id is null and logged.run_id in (select between_them.run_id from between_them)
        or logged.batch_id > (select batches.after_id from batches)
        and logged.batch_id <= (select batches.last_id from batches)
        or logged.run_id is null and logged.changed_at <= audit.published_at(later_run_id)
    union all
    select
        run.run_id,
        run.flow,
        null as before,
        inserted.line as after,
        case
            when (inserted.line ->> 'ordered_at')::timestamptz <= audit.published_at(earlier_run_id) then 'late order'
            else 'new order'
        end as cause
    from inserted
    inner join audit.run on (inserted.line ->> 'run_id')::bigint = run.run_id
    where
        case
            when inserted.line ->> 'batch_id' is null then run.run_id in (select between_them.run_id from between_them)
            else
                (inserted.line ->> 'batch_id')::bigint > (select batches.after_id from batches)
                and (inserted.line ->> 'batch_id')::bigint <= (select batches.last_id from batches)
        end
),

-- What each change takes from one month, and gives to the same or another one.
side as (
    select
        happened.run_id,
        happened.flow,
        happened.cause,
        image.line ->> 'source_system' as source_system,
        date_trunc('month', mart.local_time((image.line ->> 'ordered_at')::timestamptz))::date as month,
        coalesce(image.line ->> 'currency', 'XXX') as currency,
        image.sign as line_count,
        image.line ->> 'status' as status,
        image.sign * (image.line ->> 'net_amount')::numeric as net_amount
    from happened
    cross join lateral (values (happened.before, -1), (happened.after, 1)) as image (line, sign)
    where image.line is not null
)

select
    side.source_system,
    side.month,
    side.currency,
    side.cause,
    side.run_id,
    side.flow,
    coalesce(sum(side.line_count) filter (where side.status <> 'cancelled'), 0)::bigint as line_count,
    coalesce(sum(side.net_amount) filter (where side.status <> 'cancelled'), 0) as net_amount,
    coalesce(sum(side.net_amount) filter (where side.status = 'returned'), 0) as returned_net_amount
from batches
left join side on true
group by side.source_system, side.month, side.currency, side.cause, side.run_id, side.flow
having
    coalesce(sum(side.line_count) filter (where side.status <> 'cancelled'), 0) <> 0
    or coalesce(sum(side.net_amount) filter (where side.status <> 'cancelled'), 0) <> 0
    or coalesce(sum(side.net_amount) filter (where side.status = 'returned'), 0) <> 0
order by side.source_system, side.month, side.currency, side.run_id, side.cause
$$
