-- mart.reconciliation: one row per table of every layer, with its last comparison with the layer below.
-- inputs: audit.verification
-- A loose index scan, backwards, finds the last comparison of each table: there are few tables and many comparisons.
with recursive last as (
    (
        select
            newest.layer,
            newest.source,
            newest.table_name,
            newest.verification_id
        from audit.verification as newest
        where newest.verdict <> 'not_compared'
        order by newest.layer desc, newest.source desc, newest.table_name desc, newest.verification_id desc
        limit 1
    )
    union all
    select
        previous.layer,
        previous.source,
        previous.table_name,
        previous.verification_id
    from last
    cross join lateral (
        select
            one.layer,
            one.source,
            one.table_name,
            one.verification_id
        from audit.verification as one
        where
            one.verdict <> 'not_compared'
            and (one.layer, one.source, one.table_name) < (last.layer, last.source, last.table_name)
        order by one.layer desc, one.source desc, one.table_name desc, one.verification_id desc
        limit 1
    ) as previous
)

select
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
from last
inner join audit.verification as verification on last.verification_id = verification.verification_id
