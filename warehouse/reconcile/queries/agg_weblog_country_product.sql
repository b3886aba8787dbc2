-- agg_weblog_country_product: views per country and product, as the fact has them.
-- inputs: dwh.fact_weblog, dwh.dim_request
with per_request as (
    select
        weblog.country,
        weblog.request_key,
        count(*) as request_count
    from dwh.fact_weblog as weblog
    group by weblog.country, weblog.request_key
)

select
    per_request.country,
    request.product_id,
    sum(per_request.request_count)::bigint as view_count
from per_request
inner join dwh.dim_request as request on per_request.request_key = request.request_key
where request.action = 'view' and request.product_id is not null
group by per_request.country, request.product_id
