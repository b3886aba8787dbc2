-- weblog_lines_taken_back: removes a file's lines of earlier transactions, and what they counted for; one row: how many.
-- inputs: dwh.fact_weblog, dwh.dim_request; settings dwh.file_id, dwh.line_number (the first of them) and, where only
--         lines of some days are meant, dwh.first_date and dwh.last_date
with taken_back as materialized (
    delete from dwh.fact_weblog as weblog
    where
        weblog.file_id = nullif(current_setting('dwh.file_id', true), '')::integer
        and weblog.line_number >= nullif(current_setting('dwh.line_number', true), '')::integer
        and weblog.requested_at
        >= coalesce(nullif(current_setting('dwh.first_date', true), '')::timestamp at time zone 'UTC', '-infinity')
        and weblog.requested_at < coalesce(
            (nullif(current_setting('dwh.last_date', true), '')::timestamp + interval '1 day') at time zone 'UTC',
            'infinity'
        )
        -- Not what this transaction has loaded in their place.
        and weblog.xmin <> pg_current_xact_id()::xid
    returning
        (weblog.requested_at at time zone 'UTC')::date as request_date,
        weblog.country,
        weblog.device_key,
        weblog.web_user_key,
        weblog.request_key,
        weblog.file_id,
        weblog.line_number
),

country_user_taken as (
    select distinct
        taken_back.country,
        taken_back.web_user_key
    from taken_back
    where taken_back.web_user_key > 0
),

country_user_elsewhere as (
    select
        pair.country,
        pair.web_user_key,
        max((other.requested_at at time zone 'UTC')::date) filter (where taken_back.file_id is null) as last_seen_date
    from country_user_taken as pair
    inner join dwh.fact_weblog as other on pair.country = other.country and pair.web_user_key = other.web_user_key
    -- The statement still sees the lines that it removes.
    left join taken_back on other.file_id = taken_back.file_id and other.line_number = taken_back.line_number
    group by pair.country, pair.web_user_key
),

country_user as (
    delete from dwh.agg_weblog_country_user as pair
    using country_user_elsewhere as elsewhere
    where
        pair.country = elsewhere.country
        and pair.web_user_key = elsewhere.web_user_key
        and elsewhere.last_seen_date is null
    returning pair.country
),

country_user_kept as (
    update dwh.agg_weblog_country_user as pair
    set last_seen_date = elsewhere.last_seen_date
    from country_user_elsewhere as elsewhere
    where
        pair.country = elsewhere.country
        and pair.web_user_key = elsewhere.web_user_key
        and pair.last_seen_date > elsewhere.last_seen_date
),

device_user_taken as (
    select distinct
        taken_back.device_key,
        taken_back.web_user_key
    from taken_back
    where taken_back.web_user_key > 0
),

device_user_elsewhere as (
    select
        pair.device_key,
        pair.web_user_key,
        max((other.requested_at at time zone 'UTC')::date) filter (where taken_back.file_id is null) as last_seen_date
    from device_user_taken as pair
    inner join
        dwh.fact_weblog as other
        on pair.device_key = other.device_key and pair.web_user_key = other.web_user_key
    left join taken_back on other.file_id = taken_back.file_id and other.line_number = taken_back.line_number
    group by pair.device_key, pair.web_user_key
),

device_user as (
    delete from dwh.agg_weblog_device_user as pair
    using device_user_elsewhere as elsewhere
    where
        pair.device_key = elsewhere.device_key
        and pair.web_user_key = elsewhere.web_user_key
        and elsewhere.last_seen_date is null
    returning pair.device_key
),

device_user_kept as (
    update dwh.agg_weblog_device_user as pair
    set last_seen_date = elsewhere.last_seen_date
    from device_user_elsewhere as elsewhere
    where
        pair.device_key = elsewhere.device_key
        and pair.web_user_key = elsewhere.web_user_key
        and pair.last_seen_date > elsewhere.last_seen_date
),

country_requests as (
    select
        taken_back.country,
        count(*) as request_count
    from taken_back
    group by taken_back.country
),

country_users as (
    select
        country_user.country,
        count(*) as user_count
    from country_user
    group by country_user.country
),

country as (
    update dwh.agg_weblog_country as counted
    set
        request_count = counted.request_count - gone.request_count,
        user_count = counted.user_count - coalesce(users.user_count, 0)
    from country_requests as gone
    left join country_users as users on gone.country = users.country
    where counted.country = gone.country
),

device_requests as (
    select
        taken_back.device_key,
        count(*) as request_count
    from taken_back
    group by taken_back.device_key
),

device_users as (
    select
        device_user.device_key,
        count(*) as user_count
    from device_user
    group by device_user.device_key
),

device as (
    update dwh.agg_weblog_device as counted
    set
        request_count = counted.request_count - gone.request_count,
        user_count = counted.user_count - coalesce(users.user_count, 0)
    from device_requests as gone
    left join device_users as users on gone.device_key = users.device_key
    where counted.device_key = gone.device_key
),

view_counts as (
    select
        taken_back.country,
        request.product_id,
        count(*) as view_count
    from taken_back
    inner join dwh.dim_request as request on taken_back.request_key = request.request_key
    where request.action = 'view' and request.product_id is not null
    group by taken_back.country, request.product_id
),

country_product as (
    update dwh.agg_weblog_country_product as counted
    set view_count = counted.view_count - gone.view_count
    from view_counts as gone
    where counted.country = gone.country and counted.product_id = gone.product_id
),

day_requests as (
    select
        taken_back.request_date,
        request.action,
        count(*) as request_count
    from taken_back
    inner join dwh.dim_request as request on taken_back.request_key = request.request_key
    group by taken_back.request_date, request.action
),

day as (
    update dwh.agg_weblog_day as counted
    set request_count = counted.request_count - gone.request_count
    from day_requests as gone
    where counted.request_date = gone.request_date and counted.action = gone.action
)

select count(*) as lines_taken_back
from taken_back
