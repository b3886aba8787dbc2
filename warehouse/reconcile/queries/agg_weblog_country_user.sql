-- agg_weblog_country_user: each logged user once per country, and when last, as the fact has them.
-- inputs: dwh.fact_weblog, dwh.agg_weblog_country_user
-- A day that is empty is about to be counted again.
with seen as (
    select
        weblog.country,
        weblog.web_user_key,
        max((weblog.requested_at at time zone 'UTC')::date) as last_seen_date
    from dwh.fact_weblog as weblog
    where weblog.web_user_key <> 0
    group by weblog.country, weblog.web_user_key
)

select
    seen.country,
    seen.web_user_key,
    case
        when known.country is null or known.last_seen_date is not null then seen.last_seen_date
    end as last_seen_date
from seen
left join dwh.agg_weblog_country_user as known
    on seen.country = known.country and seen.web_user_key = known.web_user_key
