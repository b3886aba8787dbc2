-- dim_date: one row per day between the first and last that the batch names, where the calendar lacks it.
-- inputs: staging.conformed_order_item; setting dwh.run_id
insert into dwh.dim_date (
    date_key, date, year, quarter, month, month_name, month_start_date, week_year, week,
    day_of_month, day_of_year, day_of_week, day_name, is_weekend, run_id
)
select
    to_char(named.day, 'YYYYMMDD')::integer as date_key,
    named.day as date,
    extract(year from named.day) as year,
    extract(quarter from named.day) as quarter,
    extract(month from named.day) as month,
    to_char(named.day, 'FMMonth') as month_name,
    date_trunc('month', named.day)::date as month_start_date,
    extract(isoyear from named.day) as week_year,
    extract(week from named.day) as week,
    extract(day from named.day) as day_of_month,
    extract(doy from named.day) as day_of_year,
    extract(isodow from named.day) as day_of_week,
    to_char(named.day, 'FMDay') as day_name,
    extract(isodow from named.day) >= 6 as is_weekend,
    coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
from (
    select generate_series(batch.first_day, batch.last_day, interval '1 day')::date as day
    from (
        select
            date_trunc('day', least(min(line.ordered_at), min(line.returned_at)) at time zone 'UTC') as first_day,
            date_trunc('day', greatest(max(line.ordered_at), max(line.returned_at)) at time zone 'UTC') as last_day
        from staging.conformed_order_item as line
    ) as batch
) as named
left join dwh.dim_date as known on named.day = known.date
where known.date is null
