-- mart.reconciliation: one row per table of every layer: was it what the layer below makes of it, when last compared?
-- inputs: audit.verification
-- The tables are found by skipping through the index: a trail of years has few of them.
with recursive verified as (
    (
        select
            first.layer,
            first.source,
            first.table_name
        from audit.verification as first
        order by first.layer asc, first.source asc, first.table_name asc
        limit 1
    )
    union all
    select
        next.layer,
        next.source,
        next.table_name
    from verified
    cross join lateral (
        select
            one.layer,
            one.source,
            one.table_name
        from audit.verification as one
        where (one.layer, one.source, one.table_name) > (verified.layer, verified.source, verified.table_name)
        order by one.layer asc, one.source asc, one.table_name asc
        limit 1
    ) as next
)

select
    verified.layer,
    verified.source,
    verified.table_name,
    verification.verdict,
    verification.rows_source as rows_expected,
    verification.rows_mirror as rows_found,
    verification.rows_differing,
    verification.rows_pending,
    verification.rows_repaired,
    verification.verified_at,
    verification.run_id
from verified
cross join lateral (
    select one.*
    from audit.verification as one
    where
        one.layer = verified.layer and one.source = verified.source and one.table_name = verified.table_name
    order by one.verification_id desc
    limit 1
) as verification
