-- mart.as_of: one row per source with a sale: the last day that answers include, and the twelve full months before it.
-- inputs: mart.sales_by_day
-- Orders dated in the future or BC are ignored. The day is that of the last sale, not today: a source may be behind.
select
    sales.source_system,
    max(sales.ordered_date) as as_of_date,
    (date_trunc('month', max(sales.ordered_date)::timestamp) - interval '12 months')::date as year_start_date,
    date_trunc('month', max(sales.ordered_date)::timestamp)::date as year_end_date
from mart.sales_by_day as sales
where sales.line_count > 0 and sales.ordered_date between date '0001-01-01' and mart.local_date(now())
group by sales.source_system
