-- Features of customers: one row per customer and source, as of the end of a day.
-- inputs: settings dwh.as_of_date (empty: each source's own as-of date) and dwh.currency; dwh.dim_customer,
--     dwh.dim_distribution_center, dwh.dim_product, dwh.fact_order_item, dwh.fact_weblog and its dimensions, mart.as_of
-- A table of the star may stand for what it was after an earlier run (warehouse/features/build.py).
with as_of as (
    select
        known.source_system,
        known.as_of_date,
        (known.as_of_date + 1)::timestamp at time zone mart.time_zone() as ends_at,
        (date_trunc('month', known.as_of_date::timestamp) - interval '12 months') at time zone mart.time_zone()
            as year_starts_at,
        date_trunc('month', known.as_of_date::timestamp) at time zone mart.time_zone() as year_ends_at
    from (
        select
            source.source_system,
            coalesce(
                nullif(current_setting('dwh.as_of_date', true), '')::date,
                as_of.as_of_date,
                mart.local_date(now())
            ) as as_of_date
        from (
            select distinct source_system from dwh.dim_customer
            where customer_key <> 0
        ) as source
        left join mart.as_of as as_of on source.source_system = as_of.source_system
    ) as known
),

customer as (
    select
        customer.*,
        as_of.as_of_date,
        as_of.ends_at
    from dwh.dim_customer as customer
    inner join as_of on customer.source_system = as_of.source_system
    where
        customer.customer_key <> 0
        and customer.valid_from < as_of.ends_at and customer.valid_to >= as_of.ends_at
),

-- Great-circle distance by the haversine formula, on a sphere of 6371.0088 km.
distance as (
    select
        customer.source_system,
        customer.customer_id,
        center.name,
        2 * 6371.0088 * asin(least(1, sqrt(
            power(sin(radians((center.latitude - customer.latitude)::float8) / 2), 2)
            + cos(radians(customer.latitude::float8)) * cos(radians(center.latitude::float8))
            * power(sin(radians((center.longitude - customer.longitude)::float8) / 2), 2)
        ))) as distance_km,
        center.distribution_center_id
    from customer
    inner join dwh.dim_distribution_center as center on customer.source_system = center.source_system
    where
        center.distribution_center_key <> 0 and not center.is_deleted
        and center.latitude is not null and center.longitude is not null
        and customer.latitude is not null and customer.longitude is not null
),

nearest as (
    select distinct on (distance.source_system, distance.customer_id)
        distance.source_system,
        distance.customer_id,
        distance.name,
        distance.distance_km
    from distance
    order by
        distance.source_system asc,
        distance.customer_id asc,
        distance.distance_km asc,
        distance.distribution_center_id asc
),

-- What came back after the day was complete on it.
line as (
    select
        buyer.source_system,
        buyer.customer_id,
        line.order_id,
        line.ordered_at,
        line.quantity,
        line.net_amount,
        coalesce(line.currency, 'XXX') as currency,
        product.category,
        case when line.status = 'returned' and line.returned_at >= as_of.ends_at then 'complete' else line.status end
            as status,
        line.ordered_at >= as_of.year_starts_at and line.ordered_at < as_of.year_ends_at as is_of_last_year
    from dwh.fact_order_item as line
    inner join dwh.dim_customer as buyer on line.customer_key = buyer.customer_key
    inner join as_of on buyer.source_system = as_of.source_system
    left join dwh.dim_product as product on line.product_key = product.product_key
    where line.ordered_at < as_of.ends_at
),

bought as (
    select
        line.source_system,
        line.customer_id,
        count(distinct line.order_id) filter (where line.status <> 'cancelled') as order_count,
        mart.local_date(max(line.ordered_at) filter (where line.status <> 'cancelled')) as last_ordered_date,
        count(*) filter (where line.is_of_last_year and line.status = 'returned')
        / nullif(count(*) filter (where line.is_of_last_year and line.status <> 'cancelled'), 0)::numeric
            as return_rate_last_year,
        coalesce(sum(line.net_amount) filter (
            where line.is_of_last_year and line.status = 'complete'
            and line.currency = current_setting('dwh.currency', true)
        ), 0) as spend_last_year_amount
    from line
    group by line.source_system, line.customer_id
),

other_currency as (
    select
        summed.source_system,
        summed.customer_id,
        jsonb_object_agg(summed.currency, summed.amount) as amounts
    from (
        select
            line.source_system,
            line.customer_id,
            line.currency,
            sum(line.net_amount) as amount
        from line
        where line.is_of_last_year and line.status = 'complete'
            and line.currency <> current_setting('dwh.currency', true)
        group by line.source_system, line.customer_id, line.currency
    ) as summed
    group by summed.source_system, summed.customer_id
),

favourite as (
    select distinct on (counted.source_system, counted.customer_id)
        counted.source_system,
        counted.customer_id,
        counted.category
    from (
        select
            line.source_system,
            line.customer_id,
            line.category,
            sum(line.quantity) as unit_count,
            count(*) as line_count
        from line
        where line.status <> 'cancelled' and line.category is not null
        group by line.source_system, line.customer_id, line.category
    ) as counted
    order by
        counted.source_system asc,
        counted.customer_id asc,
        counted.unit_count desc,
        counted.line_count desc,
        counted.category asc
),

request as (
    select
        web_user.user_name,
        as_of.source_system,
        traffic_source.name as traffic_source,
        traffic_source.medium as traffic_medium,
        device.family as device,
        count(*) as request_count
    from dwh.fact_weblog as weblog
    inner join dwh.dim_web_user as web_user on weblog.web_user_key = web_user.web_user_key
    inner join as_of on weblog.requested_at < as_of.ends_at
    left join dwh.dim_traffic_source as traffic_source
        on weblog.traffic_source_key = traffic_source.traffic_source_key
    left join dwh.dim_device as device on weblog.device_key = device.device_key
    where weblog.web_user_key <> 0
    group by
        web_user.user_name,
        as_of.source_system,
        traffic_source.name,
        traffic_source.medium,
        device.family
),

-- Who moves within the site came from nowhere: such requests count only where there are no others.
source_of_user as (
    select distinct on (counted.source_system, counted.user_name)
        counted.source_system,
        counted.user_name,
        counted.traffic_source
    from (
        select
            request.source_system,
            request.user_name,
            request.traffic_source,
            request.traffic_medium,
            sum(request.request_count) as request_count
        from request
        group by request.source_system, request.user_name, request.traffic_source, request.traffic_medium
    ) as counted
    order by
        counted.source_system asc,
        counted.user_name asc,
        (counted.traffic_medium = 'internal') asc,
        counted.request_count desc,
        counted.traffic_source asc,
        counted.traffic_medium asc
),

device_of_user as (
    select distinct on (counted.source_system, counted.user_name)
        counted.source_system,
        counted.user_name,
        counted.device
    from (
        select
            request.source_system,
            request.user_name,
            request.device,
            sum(request.request_count) as request_count
        from request
        group by request.source_system, request.user_name, request.device
    ) as counted
    order by
        counted.source_system asc,
        counted.user_name asc,
        counted.request_count desc,
        counted.device asc
)

select
    customer.as_of_date,
    customer.source_system,
    customer.customer_id,
    customer.customer_key,
    case
        when customer.birth_date between date '0001-01-01' and customer.as_of_date
            then extract(year from age(customer.as_of_date::timestamp, customer.birth_date::timestamp))::integer
    end as age,
    customer.country,
    customer.state,
    nearest.name as nearest_distribution_center,
    round(nearest.distance_km::numeric, 3) as nearest_distribution_center_km,
    bought.return_rate_last_year,
    coalesce(bought.spend_last_year_amount, 0) as spend_last_year_amount,
    current_setting('dwh.currency', true) as currency,
    other_currency.amounts as other_currency_amounts,
    case
        when coalesce(bought.spend_last_year_amount, 0) <= 50 then 1
        when bought.spend_last_year_amount < 150 then 2
        else 3
    end as profit_level,
    source_of_user.traffic_source,
    coalesce(bought.order_count, 0) as order_count,
    bought.last_ordered_date,
    customer.as_of_date - bought.last_ordered_date as recency_days,
    favourite.category as favourite_category,
    device_of_user.device
from customer
left join nearest
    on customer.source_system = nearest.source_system and customer.customer_id = nearest.customer_id
left join bought on customer.source_system = bought.source_system and customer.customer_id = bought.customer_id
left join other_currency
    on customer.source_system = other_currency.source_system and customer.customer_id = other_currency.customer_id
left join favourite
    on customer.source_system = favourite.source_system and customer.customer_id = favourite.customer_id
left join source_of_user
    on customer.source_system = source_of_user.source_system and customer.username = source_of_user.user_name
left join device_of_user
    on customer.source_system = device_of_user.source_system and customer.username = device_of_user.user_name
