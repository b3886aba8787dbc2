-- The answer to the request with this key.
update public.order_request
set answer = %(answer)s
where idempotency_key = %(key)s
