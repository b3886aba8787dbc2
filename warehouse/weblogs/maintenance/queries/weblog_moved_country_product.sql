-- weblog_moved_country_product: views that a move adds to countries and takes from them.
-- inputs: staging.weblog_moved, dwh.dim_request
with change as (
    select
        moved.new_country as country,
        moved.request_key,
        1 as view_count
    from staging.weblog_moved as moved
    union all
    select
        moved.country,
        moved.request_key,
        -1 as view_count
    from staging.weblog_moved as moved
)

insert into staging.weblog_country_product (country, product_id, view_count)
select
    change.country,
    request.product_id,
    sum(change.view_count) as view_count
from change
inner join dwh.dim_request as request on change.request_key = request.request_key
where request.action = 'view' and request.product_id is not null
group by change.country, request.product_id
