-- Some keys that are older than 24 hours go; those that a request is using stay for now.
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
