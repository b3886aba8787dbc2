-- inventory: one row per product and distribution center whose stock changed.
-- inputs: staging.shop_inventory_changed_keys (keys), raw.shop_inventory
select
    inventory.product_id::text as product_id,
    inventory.distribution_center_id::text as distribution_center_id,
    inventory.quantity::numeric as quantity,
    inventory.updated_at as changed_at
from staging.shop_inventory_changed_keys as changed
inner join raw.shop_inventory as inventory
    on changed.product_id = inventory.product_id
    and changed.distribution_center_id = inventory.distribution_center_id
where not inventory._is_deleted
