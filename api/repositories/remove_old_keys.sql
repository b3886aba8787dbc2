-- Delete a limited number of keys that are older than 24 hours, but none that a request has locked.
delete from public.order_request
where
    idempotency_key in (
        select old.idempotency_key
        from public.order_request as old
        where old.created_at <= now() - interval '24 hours'
        order by old.created_at
        limit %(rows)s
        for update skip locked
    )
