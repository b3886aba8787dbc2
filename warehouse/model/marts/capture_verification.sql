-- mart.capture_verification: one row per captured table: did source and mirror agree when last compared?
-- inputs: audit.verification
select distinct on (verification.source, verification.table_name)
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
from audit.verification as verification
-- other layers are not cut into chunks
where verification.chunks > 0
order by verification.source asc, verification.table_name asc, verification.verification_id desc
