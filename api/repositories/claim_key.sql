-- Claim an idempotency key: one row if it is new or 24 hours old, none if another request has it. Waits for the end of
-- another transaction that is claiming it.
insert into public.order_request (idempotency_key, request_hash)
values (%(key)s, %(request_hash)s)
on conflict (idempotency_key) do update
    set
        request_hash = excluded.request_hash,
        answer = null,
        created_at = excluded.created_at
    where order_request.created_at <= now() - interval '24 hours'
returning true as is_claimed
