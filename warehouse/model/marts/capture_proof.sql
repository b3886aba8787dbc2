-- mart.capture_proof: one row per captured table: did source and mirror agree when last compared?
-- inputs: audit.proof
select distinct on (proof.source, proof.table_name)
    proof.source,
    proof.table_name,
    proof.verdict,
    proof.rows_source,
    proof.rows_mirror,
    proof.chunks,
    proof.chunks_differing,
    proof.seconds,
    proof.proved_at,
    proof.run_id
from audit.proof as proof
-- other layers are not cut into chunks
where proof.chunks > 0
order by proof.source asc, proof.table_name asc, proof.proof_id desc
