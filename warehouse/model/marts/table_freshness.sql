-- mart.table_freshness: one row per source and table: as of when it is complete, and when it last changed.
-- inputs: audit.load, audit.run, audit.freshness
-- Every table of a source is complete as of the snapshot of the source's last run, also if that found nothing new.
with loaded as (
    select
        load.source,
        load.table_name,
        max(load.loaded_at) filter (
            where load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted > 0
        ) as changed_at,
        max(load.run_id) as run_id
    from audit.load as load
    inner join audit.run as run on load.run_id = run.run_id
    where run.status <> 'undone' and run.flow <> 'undo'
    group by load.source, load.table_name
)

select
    loaded.source,
    loaded.table_name,
    freshness.complete_at,
    loaded.changed_at,
    loaded.run_id,
    size.row_count_estimate,
    size.size_bytes
from loaded
left join audit.freshness as freshness on loaded.source = freshness.source
left join lateral (
    select
        (sum(relation.reltuples) filter (where relation.reltuples >= 0))::bigint as row_count_estimate,
        sum(pg_total_relation_size(relation.oid))::bigint as size_bytes
    from pg_class as relation
    where relation.relkind in ('r', 'm')
        and (
            relation.oid = to_regclass(loaded.table_name)
            or relation.oid in (
                select tree.relid from pg_partition_tree(to_regclass(loaded.table_name)) as tree
            )
        )
) as size on true
