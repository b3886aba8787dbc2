-- mart.countries_by_logged_users: one row per country that a request came from; by requests where users tie.
-- inputs: dwh.agg_weblog_country, dwh.dim_country
select
    row_number() over (
        order by counted.user_count desc, counted.request_count desc, counted.country asc
    )::integer as country_rank,
    counted.country,
    country.name as country_name,
    counted.user_count,
    counted.request_count
from dwh.agg_weblog_country as counted
left join dwh.dim_country as country on counted.country = country.country
order by country_rank
