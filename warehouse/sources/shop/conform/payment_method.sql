-- payment_method: one row per payment method that changed.
-- inputs: staging.shop_payment_method_affected (keys), raw.shop_payment_method
select
    payment_method.id::text as payment_method_id,
    payment_method.name,
    payment_method.kind,
    payment_method.updated_at as changed_at
from staging.shop_payment_method_affected as affected
inner join raw.shop_payment_method as payment_method on affected.id = payment_method.id
where not payment_method._is_deleted
