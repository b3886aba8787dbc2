-- mart.top_devices_by_users: the five devices with most logged users; by requests where users tie.
-- inputs: dwh.agg_weblog_device, dwh.dim_device
select
    row_number() over (
        order by counted.user_count desc, counted.request_count desc, device.family asc
    )::integer as device_rank,
    device.family as device,
    counted.user_count,
    counted.request_count
from dwh.agg_weblog_device as counted
inner join dwh.dim_device as device on counted.device_key = device.device_key
order by device_rank
limit 5
