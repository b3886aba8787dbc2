-- net sales per category and month of the last year, per source and currency.
-- inputs: mart.sales_by_category_month, mart.as_of
select
    sales.source_system,
    sales.currency,
    sales.category,
    sales.ordered_month,
    sales.net_amount
from mart.sales_by_category_month as sales
inner join mart.as_of as as_of
    on sales.source_system = as_of.source_system
    and sales.ordered_month >= as_of.year_start_date and sales.ordered_month < as_of.year_end_date
order by sales.source_system, sales.currency, sales.category, sales.ordered_month
