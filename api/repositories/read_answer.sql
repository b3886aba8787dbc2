-- What was asked for with a key, and the first answer.
select
    order_request.request_hash,
    order_request.answer
from public.order_request as order_request
where order_request.idempotency_key = %(key)s
