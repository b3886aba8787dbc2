-- mart.reconciliation: one row per table of every layer: was it what the layer below makes of it, when last compared?
-- inputs: audit.verification
select distinct on (verification.layer, verification.source, verification.table_name)
    verification.layer,
    verification.source,
    verification.table_name,
    verification.verdict,
    verification.rows_source as rows_expected,
    verification.rows_mirror as rows_found,
    verification.rows_differing,
    verification.rows_pending,
    verification.rows_repaired,
    verification.verified_at,
    verification.run_id
from audit.verification as verification
order by verification.layer asc, verification.source asc, verification.table_name asc, verification.verification_id desc
