-- weblog_moved_away: opens the pairs of users and countries that a move took requests from: to be counted again.
-- inputs: staging.weblog_moved
update dwh.agg_weblog_country_user as pair
set last_seen_date = null
from (
    select distinct
        moved.country,
        moved.web_user_key
    from staging.weblog_moved as moved
    where moved.web_user_key > 0
) as moved
where pair.country = moved.country and pair.web_user_key = moved.web_user_key
