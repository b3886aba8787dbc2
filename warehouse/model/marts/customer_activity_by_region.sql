-- mart.customer_activity_by_region: one row per source, country, state and loyalty tier of customers as they are now.
-- inputs: dwh.dim_customer, mart.customer_sales, mart.web_user_actions, mart.as_of
-- A source of customers may have no sales of its own, and so no as-of date: its last year is the one before today.
with ordered as (
    select
        sales.customer_source_system,
        sales.customer_id,
        sum(sales.order_count)::bigint as order_count,
        max(sales.last_ordered_date) as last_ordered_date
    from mart.customer_sales as sales
    group by sales.customer_source_system, sales.customer_id
),

visited as (
    select
        actions.user_name,
        sum(actions.interaction_count)::bigint as interaction_count
    from mart.web_user_actions as actions
    where actions.user_name <> '-'
    group by actions.user_name
),

today as (
    select
        mart.local_date(now()) as as_of_date,
        (date_trunc('month', mart.local_time(now())) - interval '12 months')::date as year_start_date
)

select
    customer.source_system,
    coalesce(customer.country, 'unknown') as country,
    coalesce(customer.state, 'unknown') as state,
    coalesce(customer.loyalty_tier, 'unknown') as loyalty_tier,
    count(*) as customer_count,
    count(*) filter (
        where ordered.last_ordered_date >= coalesce(as_of.year_start_date, today.year_start_date)
    ) as active_customer_count,
    count(visited.user_name) as web_customer_count,
    coalesce(sum(ordered.order_count), 0)::bigint as order_count,
    coalesce(sum(visited.interaction_count), 0)::bigint as interaction_count,
    max(coalesce(as_of.as_of_date, today.as_of_date)) as as_of_date
from dwh.dim_customer as customer
cross join today
left join ordered
    on customer.source_system = ordered.customer_source_system and customer.customer_id = ordered.customer_id
left join visited on customer.username = visited.user_name
left join mart.as_of as as_of on customer.source_system = as_of.source_system
where customer.is_current and customer.customer_key <> 0
group by
    customer.source_system,
    coalesce(customer.country, 'unknown'),
    coalesce(customer.state, 'unknown'),
    coalesce(customer.loyalty_tier, 'unknown')
