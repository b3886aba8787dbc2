-- weblog_keys: one row per request whose device or traffic source differs from that of its texts in the lookups.
-- inputs: dwh.fact_weblog, dwh.dim_request, dwh.dim_user_agent, dwh.dim_referer
with derived as (
    select
        weblog.file_id,
        weblog.line_number,
        weblog.device_key,
        weblog.traffic_source_key,
        agent.device_key as device_key_of_text,
        coalesce(nullif(request.traffic_source_key, 0), referer.traffic_source_key) as traffic_source_key_of_text
    from dwh.fact_weblog as weblog
    inner join dwh.dim_request as request on weblog.request_key = request.request_key
    inner join dwh.dim_user_agent as agent on weblog.user_agent_key = agent.user_agent_key
    inner join dwh.dim_referer as referer on weblog.referer_key = referer.referer_key
)

select
    jsonb_build_object('file_id', file_id::text, 'line_number', line_number::text) as row_key,
    jsonb_build_object(
        'device_key', device_key::text, 'traffic_source_key', traffic_source_key::text
    ) as before,
    jsonb_build_object(
        'device_key', device_key_of_text::text, 'traffic_source_key', traffic_source_key_of_text::text
    ) as after
from derived
where
    device_key is distinct from device_key_of_text
    or traffic_source_key is distinct from traffic_source_key_of_text
order by file_id, line_number
limit 100
