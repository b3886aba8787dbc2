-- customers by segment, with their share of net sales, per source and currency.
-- inputs: mart.customer_rfm
select
    ranked.source_system,
    ranked.currency,
    ranked.segment,
    count(*) as customer_count,
    sum(ranked.net_amount) as net_amount,
    max(ranked.as_of_date) as as_of_date
from mart.customer_rfm as ranked
group by ranked.source_system, ranked.currency, ranked.segment
order by ranked.source_system asc, ranked.currency asc, net_amount desc
