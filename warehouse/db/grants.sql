-- One row per owner, grant or revocation that the database lacks: the statement that sets it.
-- inputs: the catalog, audit.personal_data
-- Mirrors, batches and partitions belong to whichever login loaded them first, until the next upgrade.
with schema_grant (schema, role, privileges) as (
    values
    ('staging', 'dwh_loader', 'usage, create'),
    ('raw', 'dwh_loader', 'usage, create'),
    ('dwh', 'dwh_loader', 'usage, create'),
    ('mart', 'dwh_loader', 'usage'),
    ('audit', 'dwh_loader', 'usage'),
    ('dwh', 'dwh_reader', 'usage'),
    ('mart', 'dwh_reader', 'usage'),
    ('audit', 'dwh_reader', 'usage'),
    ('mart', 'dwh_marketing', 'usage'),
    ('mart', 'dwh_monitor', 'usage'),
    ('mart', 'dwh_lead_reader', 'usage')
),

relation as (
    select
        relation.oid,
        relation.relowner,
        relation.relacl,
        namespace.nspname as schema,
        relation.relname as name,
        format('%I.%I', namespace.nspname, relation.relname) as full_name,
        case relation.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end as kind,
        -- Loads create, truncate, attach or refresh these, which only their owner may do.
        case
            when
                namespace.nspname in ('raw', 'staging') or relation.relkind = 'm'
                or relation.oid in (select part.relid from pg_partition_tree('dwh.fact_weblog') as part)
                then 'dwh_loader'
            else 'dwh_owner'
        end as owner,
        namespace.nspname in ('raw', 'staging') or relation.relispartition as is_made_by_loads,
        exists(
            select 1 from audit.personal_data as personal
            where personal.schema_name = namespace.nspname and personal.table_name = relation.relname
        ) as is_personal
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    where
        namespace.nspname in ('staging', 'raw', 'dwh', 'mart', 'audit')
        and relation.relkind in ('r', 'p', 'v', 'm')
),

loader_privilege as (
    select privilege.name
    from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'maintain']) as privilege (name)
    where privilege.name <> 'maintain' or current_setting('server_version_num')::integer >= 170000
),

relation_grant (oid, full_name, is_made_by_loads, role, privilege) as (
    select
        relation.oid,
        relation.full_name,
        relation.is_made_by_loads,
        'dwh_loader',
        loader_privilege.name
    from relation
    cross join loader_privilege
    where
        relation.schema in ('dwh', 'audit')
        or relation.schema = 'mart' and (relation.kind = 'table' or loader_privilege.name = 'select')
    union all
    select
        relation.oid,
        relation.full_name,
        relation.is_made_by_loads,
        'dwh_reader',
        'select'
    from relation
    where
        relation.schema in ('dwh', 'mart')
        or relation.schema = 'audit' and relation.kind = 'view' and relation.name ~ '_change$|^change_log$'
    union all
    select
        relation.oid,
        relation.full_name,
        relation.is_made_by_loads,
        'dwh_marketing',
        'select'
    from relation
    where relation.schema = 'mart' and not relation.is_personal
    union all
    select
        relation.oid,
        relation.full_name,
        relation.is_made_by_loads,
        'dwh_monitor',
        'select'
    from relation
    where
        relation.schema = 'mart' and relation.name in (
            'job_run', 'table_freshness', 'data_quality', 'data_quality_history', 'quarantine_by_rule',
            'quarantine_size', 'capture_verification', 'reconciliation', 'unread_file', 'open_problem'
        )
    union all
    select
        relation.oid,
        relation.full_name,
        relation.is_made_by_loads,
        'dwh_lead_reader',
        'select'
    from relation
    where relation.schema = 'mart' and relation.name = 'leads'
)

select
    format('alter schema %I owner to dwh_owner', namespace.nspname) as statement,
    false as is_made_by_loads
from pg_namespace as namespace
where
    namespace.nspname in ('staging', 'raw', 'dwh', 'mart', 'audit')
    and namespace.nspowner <> 'dwh_owner'::regrole
union all
select
    format('grant %s on schema %s to %s', schema_grant.privileges, schema_grant.schema, schema_grant.role) as statement,
    false as is_made_by_loads
from schema_grant
cross join unnest(string_to_array(schema_grant.privileges, ', ')) as privilege (name)
where not has_schema_privilege(schema_grant.role, schema_grant.schema, privilege.name)
union all
select
    format('alter %s %s owner to %s', relation.kind, relation.full_name, relation.owner) as statement,
    relation.is_made_by_loads
from relation
where relation.relowner <> relation.owner::regrole
union all
select
    format('alter function %s owner to dwh_owner', proc.oid::regprocedure) as statement,
    false as is_made_by_loads
from pg_proc as proc
where proc.pronamespace = 'audit'::regnamespace and proc.proowner <> 'dwh_owner'::regrole
union all
select
    format(
        'grant %s on %s to %s', string_agg(relation_grant.privilege, ', '), relation_grant.full_name,
        relation_grant.role
    ) as statement,
    relation_grant.is_made_by_loads
from relation_grant
where not has_table_privilege(relation_grant.role, relation_grant.oid, relation_grant.privilege)
group by relation_grant.full_name, relation_grant.role, relation_grant.is_made_by_loads
union all
select
    format('revoke all on %s from dwh_marketing', relation.full_name) as statement,
    false as is_made_by_loads
from relation
where
    relation.schema = 'mart' and relation.is_personal
    and exists (
        select 1 from aclexplode(relation.relacl) as granted
        where granted.grantee = 'dwh_marketing'::regrole
    )
union all
-- A rebuild of a dimension continues its surrogate keys, for which it sets the sequence.
select
    format('grant select, update on sequence %I.%I to dwh_loader', namespace.nspname, sequence.relname) as statement,
    false as is_made_by_loads
from pg_class as sequence
inner join pg_namespace as namespace on sequence.relnamespace = namespace.oid
where
    namespace.nspname in ('dwh', 'audit') and sequence.relkind = 'S'
    and not (
        has_sequence_privilege('dwh_loader', sequence.oid, 'select')
        and has_sequence_privilege('dwh_loader', sequence.oid, 'update')
    )
