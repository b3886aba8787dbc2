-- mart.capture_verification: one row per captured table, with the last comparison of source and mirror.
-- inputs: audit.verification
-- Only comparisons of mirrors have chunks. The last one of each table is found as in mart.reconciliation.
with recursive last as (
    (
        select
            newest.source,
            newest.table_name,
            newest.verification_id
        from audit.verification as newest
        where newest.layer = 'mirror' and newest.chunks > 0
        order by newest.source desc, newest.table_name desc, newest.verification_id desc
        limit 1
    )
    union all
    select
        previous.source,
        previous.table_name,
        previous.verification_id
    from last
    cross join lateral (
        select
            one.source,
            one.table_name,
            one.verification_id
        from audit.verification as one
        where one.layer = 'mirror' and one.chunks > 0 and (one.source, one.table_name) < (last.source, last.table_name)
        order by one.source desc, one.table_name desc, one.verification_id desc
        limit 1
    ) as previous
)

select
    verification.source,
    verification.table_name,
    verification.verdict,
    verification.rows_source,
    verification.rows_mirror,
    verification.chunks,
    verification.chunks_differing,
    verification.seconds,
    verification.verified_at,
    verification.run_id
from last
inner join audit.verification as verification on last.verification_id = verification.verification_id
