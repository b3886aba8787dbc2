-- mart.capture_verification: one row per captured table: did source and mirror agree when last compared?
-- inputs: audit.verification
select distinct on (proof.source, proof.table_name)
    proof.source,
    proof.table_name,
    proof.verdict,
    proof.rows_source,
    proof.rows_mirror,
    proof.chunks,
    proof.chunks_differing,
    proof.seconds,
    proof.verified_at,
    proof.run_id
from audit.verification as proof
-- other layers are not cut into chunks
where proof.chunks > 0
order by proof.source asc, proof.table_name asc, proof.verification_id desc
