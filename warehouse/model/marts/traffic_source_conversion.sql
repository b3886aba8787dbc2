-- mart.traffic_source_conversion: one row per traffic source that a logged user came by.
-- inputs: mart.web_user_actions, dwh.dim_customer (login names), mart.customer_sales
with customer as (
    select
        customer.username,
        bool_or(coalesce(sales.order_count, 0) > 0) as has_bought
    from dwh.dim_customer as customer
    left join mart.customer_sales as sales
        on customer.source_system = sales.customer_source_system and customer.customer_id = sales.customer_id
    where customer.is_current and customer.username is not null
    group by customer.username
),

web_user as (
    select
        actions.traffic_source,
        actions.traffic_medium,
        actions.user_name,
        sum(actions.interaction_count) as interaction_count
    from mart.web_user_actions as actions
    where actions.user_name <> '-'
    group by actions.traffic_source, actions.traffic_medium, actions.user_name
)

select
    web_user.traffic_source,
    web_user.traffic_medium,
    count(*) as user_count,
    count(customer.username) as customer_count,
    count(*) filter (where customer.has_bought) as buyer_count,
    count(*) filter (where customer.has_bought) / count(*)::numeric as conversion_rate,
    sum(web_user.interaction_count)::bigint as interaction_count
from web_user
left join customer on web_user.user_name = customer.username
group by web_user.traffic_source, web_user.traffic_medium
