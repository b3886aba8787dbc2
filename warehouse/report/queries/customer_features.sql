-- customers by profit level as of the newest day that features were built for, per source.
-- inputs: mart.customer_feature
with newest as (
    select
        feature.source_system,
        max(feature.as_of_date) as as_of_date
    from mart.customer_feature as feature
    group by feature.source_system
)

select
    feature.source_system,
    feature.as_of_date,
    feature.currency,
    feature.profit_level,
    count(*) as customer_count,
    sum(feature.spend_last_year_amount) as spend_last_year_amount,
    avg(feature.age) as average_age,
    avg(feature.nearest_distribution_center_km) as average_km,
    avg(feature.recency_days) as average_recency_days
from newest
inner join mart.customer_feature as feature
    on newest.source_system = feature.source_system and newest.as_of_date = feature.as_of_date
group by feature.source_system, feature.as_of_date, feature.currency, feature.profit_level
order by feature.source_system, feature.profit_level
