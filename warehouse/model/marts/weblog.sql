-- mart.weblog: one row per request in the access logs, with its dictionaries looked up.
-- inputs: dwh.fact_weblog and the dimensions that it refers to
select
    weblog.ip_address,
    request.request,
    weblog.country,
    weblog.status_code,
    user_agent.user_agent,
    weblog.requested_at as request_timestamp,
    extract(year from mart.local_time(weblog.requested_at))::integer as year,
    request.product_id,
    request.action,
    case when weblog.web_user_key > 0 then web_user.user_name end as user_name,
    device.family as device,
    traffic_source.name as traffic_source,
    traffic_source.medium as traffic_medium,
    referer.referer,
    weblog.response_bytes,
    weblog.request_bytes,
    weblog.request_seconds,
    host.host,
    client_host.client_host,
    weblog.is_tls,
    weblog.file_id,
    weblog.line_number,
    weblog.run_id,
    mart.local_date(weblog.requested_at) as request_date,
    date_trunc('month', mart.local_time(weblog.requested_at))::date as request_month,
    extract(hour from mart.local_time(weblog.requested_at))::integer as request_hour
from dwh.fact_weblog as weblog
left join dwh.dim_request as request on weblog.request_key = request.request_key
left join dwh.dim_user_agent as user_agent on weblog.user_agent_key = user_agent.user_agent_key
left join dwh.dim_web_user as web_user on weblog.web_user_key = web_user.web_user_key
left join dwh.dim_device as device on weblog.device_key = device.device_key
left join dwh.dim_traffic_source as traffic_source on weblog.traffic_source_key = traffic_source.traffic_source_key
left join dwh.dim_referer as referer on weblog.referer_key = referer.referer_key
left join dwh.dim_host as host on weblog.host_key = host.host_key
left join dwh.dim_client_host as client_host on weblog.client_host_key = client_host.client_host_key
