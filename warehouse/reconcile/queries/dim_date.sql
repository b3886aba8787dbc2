-- dim_date: what each day of the calendar ought to say: the migrations' days, those that loads added, those of facts.
-- inputs: dwh.dim_date, dwh.fact_order_item
with named as (
    select generate_series(min(known.date), max(known.date), interval '1 day')::date as day
    from dwh.dim_date as known
    where known.run_id = 0 and known.date_key <> 0
    union
    select known.date
    from dwh.dim_date as known
    where known.date_key = to_char(known.date, 'YYYYMMDD')::integer
    union
    select (line.ordered_at at time zone 'UTC')::date
    from dwh.fact_order_item as line
    union
    select (line.returned_at at time zone 'UTC')::date
    from dwh.fact_order_item as line
    where line.returned_at is not null
)

select
    to_char(named.day, 'YYYYMMDD')::integer as date_key,
    named.day as date,
    extract(year from named.day)::smallint as year,
    extract(quarter from named.day)::smallint as quarter,
    extract(month from named.day)::smallint as month,
    to_char(named.day, 'FMMonth') as month_name,
    date_trunc('month', named.day)::date as month_start_date,
    extract(isoyear from named.day)::smallint as week_year,
    extract(week from named.day)::smallint as week,
    extract(day from named.day)::smallint as day_of_month,
    extract(doy from named.day)::smallint as day_of_year,
    extract(isodow from named.day)::smallint as day_of_week,
    to_char(named.day, 'FMDay') as day_name,
    extract(isodow from named.day) >= 6 as is_weekend
from named
