-- distribution_center: one row per distribution center that changed.
-- inputs: staging.shop_distribution_center_changed_keys (keys), raw.shop_distribution_center
select
    distribution_center.id::text as distribution_center_id,
    distribution_center.name,
    distribution_center.latitude,
    distribution_center.longitude,
    distribution_center.updated_at as changed_at
from staging.shop_distribution_center_changed_keys as changed
inner join raw.shop_distribution_center as distribution_center on changed.id = distribution_center.id
where not distribution_center._is_deleted
