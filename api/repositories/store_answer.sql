-- Store the answer to the request that claimed this key.
update public.order_request
set answer = %(answer)s
where idempotency_key = %(key)s
