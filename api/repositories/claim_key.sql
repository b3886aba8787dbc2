-- One row where the key is free, or 24 hours old: it belongs to this transaction then. Another transaction that has just
-- taken it is waited for.
insert into public.order_request (idempotency_key, request_hash)
values (%(key)s, %(request_hash)s)
on conflict (idempotency_key) do update
    set
        request_hash = excluded.request_hash,
        answer = null,
        created_at = excluded.created_at
    where order_request.created_at <= now() - interval '24 hours'
returning true as is_claimed
