-- mart.as_of: one row per source with a sale: the day up to which answers look, and the last year.
-- inputs: mart.sales_by_day
-- Orders dated in the future or before our era move nothing; a source that was not loaded for a while keeps its last year.
select
    sales.source_system,
    max(sales.ordered_date) as as_of_date,
    (date_trunc('month', max(sales.ordered_date)::timestamp) - interval '12 months')::date as year_start_date,
    date_trunc('month', max(sales.ordered_date)::timestamp)::date as year_end_date
from mart.sales_by_day as sales
where sales.line_count > 0 and sales.ordered_date between date '0001-01-01' and mart.local_date(now())
group by sales.source_system
