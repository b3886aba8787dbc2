-- customers by profit level as of the newest day that features were built for, per source.
-- inputs: mart.customer_feature
-- The sources, and the newest day of each, are found by skipping through indexes: features are kept of every week.
with recursive known as (
    (
        select first.source_system
        from mart.customer_feature as first
        order by first.source_system
        limit 1
    )
    union all
    select next.source_system
    from known
    cross join lateral (
        select feature.source_system
        from mart.customer_feature as feature
        where feature.source_system > known.source_system
        order by feature.source_system
        limit 1
    ) as next
),

newest as (
    select
        known.source_system,
        last.as_of_date
    from known
    cross join
        lateral (
            select feature.as_of_date
            from mart.customer_feature as feature
            where feature.source_system = known.source_system
            order by feature.as_of_date desc
            limit 1
        ) as last
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
