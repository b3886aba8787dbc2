-- weblog_moved_country_user: users by the country that a move brings them to.
-- inputs: staging.weblog_moved
insert into staging.weblog_country_user (country, web_user_key, last_seen_date)
select
    moved.new_country,
    moved.web_user_key,
    max(moved.request_date) as last_seen_date
from staging.weblog_moved as moved
where moved.web_user_key > 0
group by moved.new_country, moved.web_user_key
