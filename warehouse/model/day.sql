-- dim_date: the calendar's attributes of one day.
-- inputs: named, a row with column day
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
