-- promotion: one row per promotion that changed.
-- inputs: staging.shop_promotion_changed_keys (keys), raw.shop_promotion
select
    promotion.id::text as promotion_id,
    promotion.name,
    promotion.discount_share,
    promotion.starts_at,
    promotion.ends_at,
    promotion.updated_at as changed_at
from staging.shop_promotion_changed_keys as changed
inner join raw.shop_promotion as promotion on changed.id = promotion.id
where not promotion._is_deleted
