-- mart.table_freshness: one row per source and table: as of when it is complete, and when it last changed.
-- inputs: audit.load, audit.run
-- A load row commits with the rows that it counts, and a run that finds nothing new in a source still records
-- that it looked: every table of a source is as complete as the source's last load that was not undone.
with loaded as (
    select
        load.source,
        load.table_name,
        max(load.loaded_at) filter (
            where load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted > 0
        ) as changed_at,
        max(load.run_id) as run_id,
        max(max(load.loaded_at)) over (partition by load.source) as complete_at
    from audit.load as load
    inner join audit.run as run on load.run_id = run.run_id
    where run.status <> 'undone' and run.flow <> 'undo'
    group by load.source, load.table_name
)

select
    loaded.source,
    loaded.table_name,
    loaded.complete_at,
    loaded.changed_at,
    loaded.run_id,
    size.row_count_estimate,
    size.size_bytes
from loaded
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
