-- agg_weblog_country_product: adds a batch's views of products.
-- inputs: staging.weblog_country_product; setting dwh.run_id
insert into dwh.agg_weblog_country_product as counted (country, product_id, view_count, run_id)
select
    batch.country,
    batch.product_id,
    batch.view_count,
    coalesce(nullif(current_setting('dwh.run_id', true), ''), '0')::bigint as run_id
from staging.weblog_country_product as batch
order by batch.country, batch.product_id
on conflict (country, product_id) do update set
    view_count = counted.view_count + excluded.view_count,
    run_id = excluded.run_id
