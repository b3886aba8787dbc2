-- mart.table_freshness: one row per source and table: as of when it is complete, and when it last changed.
-- inputs: audit.load, audit.run, audit.freshness, audit.mart_state, audit.watermark, audit.key_range, audit.definition
-- Every table of a source is complete as of the snapshot of the source's last run, even if that found no changes. A
-- refresh skips marts, so each stored mart is complete as of the last refresh that found or made it current; those that
-- another flow writes, as of the start of the run that wrote them last.
-- A loose index scan finds the tables: there are few tables and many loads.
with recursive loaded as (
    (
        select
            first.source,
            first.table_name
        from audit.load as first
        order by first.source asc, first.table_name asc
        limit 1
    )
    union all
    select
        next.source,
        next.table_name
    from loaded
    cross join lateral (
        select
            load.source,
            load.table_name
        from audit.load as load
        where (load.source, load.table_name) > (loaded.source, loaded.table_name)
        order by load.source asc, load.table_name asc
        limit 1
    ) as next
),

-- Large tables are verified by key ranges, others as a whole.
verified as (
    select
        watermark.source,
        'raw.' || watermark.mirror as table_name,
        case
            when bool_or(key_range.verified_at is null and key_range.source is not null) then null
            -- Never, since its mirror was rebuilt or a run has left it different.
            else nullif(coalesce(min(key_range.verified_at), watermark.complete_at), '1970-01-01 00:00:00+00')
        end as verified_since
    from audit.watermark as watermark
    left join audit.key_range as key_range
        on watermark.source = key_range.source and watermark.table_name = key_range.table_name
    -- Mirrors of feeds have no source table to be compared with.
    where watermark.table_identity -> 'relations' <> '{}'
    group by watermark.source, watermark.table_name
),

-- Find tables by name in the catalog: to_regclass needs privileges on the schema, which readers do not have on raw.
named as (
    select distinct
        loaded.table_name,
        relation.oid
    from loaded
    inner join pg_namespace as namespace on split_part(loaded.table_name, '.', 1) = namespace.nspname
    inner join pg_class as relation
        on namespace.oid = relation.relnamespace
        and substr(loaded.table_name, strpos(loaded.table_name, '.') + 1) = relation.relname
    where relation.relkind in ('r', 'p', 'm')
),

part as (
    select
        named.table_name,
        named.oid
    from named
    union
    select
        named.table_name,
        tree.relid as oid
    from named
    cross join lateral pg_partition_tree(named.oid) as tree
),

size as (
    select
        part.table_name,
        -- reltuples is missing for small tables, which are seldom analyzed, and the statistics' count after a crash.
        (
            sum(greatest(relation.reltuples, pg_stat_get_live_tuples(relation.oid)))
            filter (where relation.reltuples >= 0 or pg_stat_get_live_tuples(relation.oid) > 0)
        )::bigint as row_count_estimate,
        sum(pg_total_relation_size(relation.oid))::bigint as size_bytes
    from part
    inner join pg_class as relation on part.oid = relation.oid
    where relation.relkind in ('r', 'm')
    group by part.table_name
)

select
    loaded.source,
    loaded.table_name,
    case
        when loaded.source = 'mart' then coalesce(mart_state.refreshed_at, last.started_at)
        when removed.source is null then freshness.complete_at
    end as complete_at,
    case when removed.source is null then verified.verified_since end as verified_since,
    changed.changed_at,
    last.run_id,
    size.row_count_estimate,
    size.size_bytes
from loaded
cross join
    lateral (
        select
            load.run_id,
            run.started_at
        from audit.load as load
        inner join audit.run as run on load.run_id = run.run_id
        where
            load.source = loaded.source and load.table_name = loaded.table_name
            and run.status <> 'undone' and run.flow <> 'undo'
        order by load.load_id desc
        limit 1
    ) as last
left join lateral (
    select load.loaded_at as changed_at
    from audit.load as load
    inner join audit.run as run on load.run_id = run.run_id
    where
        load.source = loaded.source and load.table_name = loaded.table_name
        and load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted > 0
        and run.status <> 'undone' and run.flow <> 'undo'
    order by load.load_id desc
    limit 1
) as changed on true
left join audit.freshness as freshness on loaded.source = freshness.source
-- No run keeps the rows of a table that its source no longer declares.
left join audit.definition as removed
    on loaded.source = removed.source and loaded.table_name = removed.table_name
    and removed.part = 'removed from the source''s declaration'
left join audit.mart_state as mart_state on loaded.table_name = 'mart.' || mart_state.mart_name
left join lateral (
    -- A table of the star is as verified as the least verified mirror of its source.
    select
        case when bool_or(mirror.verified_since is null) then null else min(mirror.verified_since) end
            as verified_since
    from verified as mirror
    where mirror.source = loaded.source
        and (mirror.table_name = loaded.table_name or loaded.table_name not like 'raw.%')
) as verified on true
left join size on loaded.table_name = size.table_name
