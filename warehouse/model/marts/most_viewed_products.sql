-- mart.most_viewed_products: the five products most viewed in the country that most users log in from.
-- inputs: dwh.agg_weblog_country, dwh.agg_weblog_country_product, dwh.dim_country, dwh.dim_product (names)
with country_with_most_users as (
    select counted.country
    from dwh.agg_weblog_country as counted
    -- ZZ is the unknown country.
    where counted.country <> 'ZZ'
    order by counted.user_count desc, counted.request_count desc, counted.country asc
    limit 1
),

most_viewed as (
    select
        viewed.country,
        viewed.product_id,
        viewed.view_count
    from dwh.agg_weblog_country_product as viewed
    inner join country_with_most_users as chosen on viewed.country = chosen.country
    order by viewed.view_count desc, viewed.product_id asc
    limit 5
)

select
    row_number() over (order by most_viewed.view_count desc, most_viewed.product_id asc)::integer as product_rank,
    most_viewed.product_id,
    product.name as product_name,
    most_viewed.view_count,
    most_viewed.country,
    country.name as country_name
from most_viewed
left join dwh.dim_country as country on most_viewed.country = country.country
left join dwh.dim_product as product
    on most_viewed.product_id = product.product_id and product.is_current
    -- Web logs have no source system: take the shop's product, else that of the only source that has the id.
    and product.source_system = (
        select
            coalesce(
                max(one.source_system) filter (where one.source_system = 'shop'),
                case when min(one.source_system) = max(one.source_system) then min(one.source_system) end
            )
        from dwh.dim_product as one
        where one.product_id = most_viewed.product_id
    )
order by product_rank
