-- mart.purchase_funnel: one row per step of logged users from a product's view to an order as a customer.
-- inputs: mart.web_user_actions, dwh.dim_customer (login names), mart.customer_sales
with buyer as (
    select distinct customer.username
    from dwh.dim_customer as customer
    inner join mart.customer_sales as sales
        on customer.source_system = sales.customer_source_system and customer.customer_id = sales.customer_id
    where customer.is_current and sales.order_count > 0
),

web_user as (
    select
        actions.user_name,
        bool_or(actions.action = 'view') as has_viewed,
        bool_or(actions.action = 'add_to_cart') as has_added,
        bool_or(actions.action = 'checkout') as has_checked_out
    from mart.web_user_actions as actions
    where actions.user_name <> '-'
    group by actions.user_name
),

counted as (
    select
        count(*) filter (where web_user.has_viewed) as viewed,
        count(*) filter (where web_user.has_viewed and web_user.has_added) as added,
        count(*) filter (
            where web_user.has_viewed and web_user.has_added and web_user.has_checked_out
        ) as checked_out,
        count(*) filter (
            where web_user.has_viewed and web_user.has_added and web_user.has_checked_out
            and buyer.username is not null
        ) as bought
    from web_user
    left join buyer on web_user.user_name = buyer.username
)

select
    step.step_number,
    step.step,
    step.user_count,
    step.user_count / nullif(lag(step.user_count) over (order by step.step_number), 0)::numeric as share_of_previous,
    step.user_count / nullif(first_value(step.user_count) over (order by step.step_number), 0)::numeric
        as share_of_first
from counted
cross join
    lateral (
        values
        (1, 'view', counted.viewed),
        (2, 'add to cart', counted.added),
        (3, 'checkout', counted.checked_out),
        (4, 'order', counted.bought)
    ) as step (step_number, step, user_count)
order by step.step_number
