-- mart.customer_age_groups: one row per source and age group, as of the source's as-of date.
-- inputs: dwh.dim_customer, mart.customer_sales, mart.web_user_actions, mart.as_of
-- A birth date in the future or before our era gives no age: it may lie outside of what a timestamp holds.
with ordered as (
    select
        sales.customer_source_system,
        sales.customer_id,
        sum(sales.order_count)::bigint as order_count
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

aged as (
    select
        customer.source_system,
        customer.customer_id,
        customer.username,
        coalesce(as_of.as_of_date, mart.local_date(now())) as as_of_date,
        case
            when customer.birth_date between date '0001-01-01' and coalesce(as_of.as_of_date, mart.local_date(now()))
                then extract(year from age(
                        coalesce(as_of.as_of_date, mart.local_date(now()))::timestamp, customer.birth_date::timestamp
                    ))::integer
        end as age
    from dwh.dim_customer as customer
    left join mart.as_of as as_of on customer.source_system = as_of.source_system
    where customer.is_current and customer.customer_key <> 0
)

select
    aged.source_system,
    case
        when aged.age is null then 'unknown'
        when aged.age < 18 then '0-17'
        when aged.age < 25 then '18-24'
        when aged.age < 35 then '25-34'
        when aged.age < 45 then '35-44'
        when aged.age < 55 then '45-54'
        when aged.age < 65 then '55-64'
        else '65 and over'
    end as age_group,
    count(*) as customer_count,
    count(visited.user_name) as web_customer_count,
    coalesce(sum(visited.interaction_count), 0)::bigint as interaction_count,
    count(*) filter (where ordered.order_count > 0) as buyer_count,
    coalesce(sum(ordered.order_count), 0)::bigint as order_count,
    max(aged.as_of_date) as as_of_date
from aged
left join ordered on aged.source_system = ordered.customer_source_system and aged.customer_id = ordered.customer_id
left join visited on aged.username = visited.user_name
group by aged.source_system, age_group
