-- payment_method: one row per payment method that changed.
-- inputs: staging.shop_payment_method_changed_keys (keys), raw.shop_payment_method
select
    payment_method.id::text as payment_method_id,
    payment_method.name,
    payment_method.kind,
    payment_method.updated_at as changed_at
from staging.shop_payment_method_changed_keys as changed
inner join raw.shop_payment_method as payment_method on changed.id = payment_method.id
where not payment_method._is_deleted
