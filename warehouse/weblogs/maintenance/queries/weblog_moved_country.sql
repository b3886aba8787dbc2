-- weblog_moved_country: what a move adds to countries and takes from them.
-- inputs: staging.weblog_moved
with change as (
    select
        moved.new_country as country,
        1 as request_count
    from staging.weblog_moved as moved
    union all
    select
        moved.country,
        -1 as request_count
    from staging.weblog_moved as moved
)

insert into staging.weblog_country (country, request_count)
select
    change.country,
    sum(change.request_count) as request_count
from change
group by change.country
