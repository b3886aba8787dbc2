-- mart.reconciliation: one row per table of every layer: was it what the layer below makes of it, when last compared?
-- inputs: audit.verification
select distinct on (proof.layer, proof.source, proof.table_name)
    proof.layer,
    proof.source,
    proof.table_name,
    proof.verdict,
    proof.rows_source as rows_expected,
    proof.rows_mirror as rows_found,
    proof.rows_differing,
    proof.rows_pending,
    proof.rows_repaired,
    proof.verified_at,
    proof.run_id
from audit.verification as proof
order by proof.layer asc, proof.source asc, proof.table_name asc, proof.verification_id desc
