-- mart.customer_rfm: one row per source, currency and customer with an order, as of the source's as-of date.
-- inputs: mart.customer_sales, mart.as_of
-- Customers who tie have the same score: the best of theirs for recency, so that whoever ordered last has a 5, however many
-- they are; the worst for frequency and amount, so that one order where all have one does not make a loyal customer.
with bought as (
    select
        sales.source_system,
        sales.currency,
        sales.customer_source_system,
        sales.customer_id,
        sales.order_count,
        sales.unit_count,
        sales.net_amount,
        least(sales.last_ordered_date, as_of.as_of_date) as last_ordered_date,
        as_of.as_of_date
    from mart.customer_sales as sales
    inner join mart.as_of as as_of on sales.source_system = as_of.source_system
    -- Orders that name no customer are not one customer's.
    where sales.order_count > 0 and sales.first_ordered_date <= as_of.as_of_date and sales.customer_id <> ''
),

scored as (
    select
        bought.*,
        row_number() over (
            partition by bought.source_system, bought.currency
            order by
                bought.net_amount desc, bought.order_count desc, bought.customer_id asc,
                bought.customer_source_system asc
        ) as customer_rank,
        greatest(1, 5 - floor(5 * percent_rank() over (
            partition by bought.source_system, bought.currency order by bought.last_ordered_date desc
        )))::integer as recency_score,
        least(5, 1 + floor(5 * percent_rank() over (
            partition by bought.source_system, bought.currency order by bought.order_count
        )))::integer as frequency_score,
        least(5, 1 + floor(5 * percent_rank() over (
            partition by bought.source_system, bought.currency order by bought.net_amount
        )))::integer as monetary_score
    from bought
)

select
    scored.source_system,
    scored.currency,
    scored.customer_source_system,
    scored.customer_id,
    scored.customer_rank,
    scored.order_count,
    scored.unit_count,
    scored.net_amount,
    scored.last_ordered_date,
    case
        when isfinite(scored.last_ordered_date) then scored.as_of_date - scored.last_ordered_date
    end as recency_days,
    scored.recency_score,
    scored.frequency_score,
    scored.monetary_score,
    case
        when scored.recency_score >= 4 and scored.frequency_score >= 4 and scored.monetary_score >= 4 then 'champion'
        when scored.recency_score >= 3 and scored.frequency_score >= 3 then 'loyal'
        when scored.recency_score >= 4 and scored.frequency_score <= 2 then 'new'
        when scored.recency_score <= 2 and scored.frequency_score >= 3 then 'at risk'
        when scored.recency_score <= 2 then 'lost'
        else 'regular'
    end as segment,
    scored.as_of_date
from scored
