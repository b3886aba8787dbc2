-- The hash of the request that claimed a key, and its answer.
select
    order_request.request_hash,
    order_request.answer
from public.order_request as order_request
where order_request.idempotency_key = %(key)s
