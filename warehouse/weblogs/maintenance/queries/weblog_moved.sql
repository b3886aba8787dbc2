-- weblog_moved: moves requests of a month to the country that their address has now; one row staged per request.
-- inputs: dwh.fact_weblog, staging.weblog_moving; setting dwh.month
with deleted as (
    delete from dwh.fact_weblog as weblog
    using staging.weblog_moving as moving
    where
        weblog.country = moving.country
        and weblog.ip_address = moving.ip_address
        and weblog.requested_at >= nullif(current_setting('dwh.month', true), '')::timestamptz
        and weblog.requested_at
        < nullif(current_setting('dwh.month', true), '')::timestamptz + interval '1 month'
    returning
        weblog.requested_at,
        weblog.response_bytes,
        weblog.run_id,
        weblog.file_id,
        weblog.line_number,
        weblog.request_key,
        weblog.user_agent_key,
        weblog.referer_key,
        weblog.web_user_key,
        weblog.status_code,
        weblog.device_key,
        weblog.traffic_source_key,
        weblog.country,
        weblog.ip_address,
        weblog.request_bytes,
        weblog.host_key,
        weblog.client_host_key,
        weblog.request_seconds,
        weblog.is_tls,
        moving.new_country
),

inserted as (
    insert into dwh.fact_weblog (
        requested_at,
        response_bytes,
        run_id,
        file_id,
        line_number,
        request_key,
        user_agent_key,
        referer_key,
        web_user_key,
        status_code,
        device_key,
        traffic_source_key,
        country,
        ip_address,
        request_bytes,
        host_key,
        client_host_key,
        request_seconds,
        is_tls
    )
    select
        deleted.requested_at,
        deleted.response_bytes,
        deleted.run_id,
        deleted.file_id,
        deleted.line_number,
        deleted.request_key,
        deleted.user_agent_key,
        deleted.referer_key,
        deleted.web_user_key,
        deleted.status_code,
        deleted.device_key,
        deleted.traffic_source_key,
        deleted.new_country,
        deleted.ip_address,
        deleted.request_bytes,
        deleted.host_key,
        deleted.client_host_key,
        deleted.request_seconds,
        deleted.is_tls
    from deleted
    order by deleted.new_country, deleted.file_id, deleted.line_number
)

insert into staging.weblog_moved (country, new_country, web_user_key, request_key, request_date)
select
    deleted.country,
    deleted.new_country,
    deleted.web_user_key,
    deleted.request_key,
    (deleted.requested_at at time zone 'UTC')::date as request_date
from deleted
