-- mart.capture_verification: one row per captured table: did source and mirror agree when last compared?
-- inputs: audit.verification, mart.reconciliation
-- Other layers are not cut into chunks.
select
    verified.source,
    verified.table_name,
    verification.verdict,
    verification.rows_source,
    verification.rows_mirror,
    verification.chunks,
    verification.chunks_differing,
    verification.seconds,
    verification.verified_at,
    verification.run_id
from mart.reconciliation as verified
cross join
    lateral (
        select one.*
        from audit.verification as one
        where
            one.layer = verified.layer and one.source = verified.source and one.table_name = verified.table_name
            and one.chunks > 0
        order by one.verification_id desc
        limit 1
    ) as verification
where verified.layer = 'mirror'
