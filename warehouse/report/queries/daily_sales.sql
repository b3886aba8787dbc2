-- sales of each day in the two years before the as-of date, per source and currency.
-- inputs: mart.sales_by_day, mart.as_of
select
    sales.source_system,
    sales.currency,
    sales.ordered_date,
    sales.net_amount,
    sales.order_count
from mart.sales_by_day as sales
inner join mart.as_of as as_of
    on sales.source_system = as_of.source_system
    and sales.ordered_date > as_of.as_of_date - 731 and sales.ordered_date <= as_of.as_of_date
where sales.line_count > 0
order by sales.source_system asc, sales.currency asc, sales.ordered_date asc
