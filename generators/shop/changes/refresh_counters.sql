-- One row per product that was sold, cancelled or reviewed today: refresh its counters; returns its id.
with total as (
    select
        p.id,
        p.sold_count + today.sold as sold_count,
        p.review_count + today.review_count as review_count,
        coalesce(p.rating_average * p.review_count, 0) + today.stars as stars,
        today.review_count > 0 as is_reviewed
    from public.product as p
    inner join
        unnest(%(ids)s::bigint[], %(sold)s::integer[], %(review_counts)s::integer[], %(stars)s::integer[])
            as today (id, sold, review_count, stars)
        on p.id = today.id
)

update public.product as p
set
    sold_count = total.sold_count,
    review_count = total.review_count,
    rating_average = case
        when total.is_reviewed then round(total.stars / total.review_count, 2)
        else p.rating_average
    end
from total
where p.id = total.id
returning p.id
