"""Reconcile SCD2 dimensions: recompute current versions from the mirror, and past versions from the change log.

A mirror has only current values. Past versions are in audit.change: closing a version updated it, so its last state is
logged in full. Changes by hand are logged too, and are ignored.
"""

import time

from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.load.batch import Batch
from warehouse.load.natural_keys import natural_values
from warehouse.load.scd2 import PARKED, row_hash
from warehouse.model.star import BEGINNING, END_OF_TIME, Dimension
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table
from warehouse.reconcile.keys import find_lost_keys
from warehouse.reconcile.verdict import Verdict


def reconcile_versions(batch: Batch, dimension: Dimension) -> Verdict:
    """Repair an SCD2 dimension from its batch and the change log."""
    started = time.monotonic()
    find_lost_keys(batch, dimension)
    names = _names(batch, dimension)
    for statement in (_WRITTEN, _EXPECT_PAST, _EXPECT_PRESENT, _EXPECT_OTHERS):
        batch.execute(statement, **names)
    (natural,) = dimension.natural_key
    comparison = Comparison(
        "star",
        batch.source,
        "dwh",
        dimension.table,
        EXPECTED,
        (dimension.key,),
        (natural, *dimension.attributes, *_VALIDITY),
        batch.format("found.source_system = {source} and found.{key} <> 0", **names),
        {"source_system": sql.Literal(batch.source), "run_id": sql.Literal(batch.run_id)},
        parked=PARKED,
    )
    return reconcile_table(batch.connection, comparison).timed(started)


_VALIDITY = ("valid_from", "valid_to", "is_current", "is_inferred", "row_hash", "expired_by_run_id")


def _names(batch: Batch, dimension: Dimension) -> dict[str, sql.Composable]:
    (natural,) = dimension.natural_key
    columns = (dimension.key, natural, *dimension.attributes, *_VALIDITY)

    def attributes(version: str) -> sql.Composable:
        # Type 1 attributes have their current value in all versions.
        values: list[sql.Composable] = [sql.Identifier(version, name) for name in dimension.tracked]
        values += [
            sql.SQL("case when conformed.{natural} is null then {then} else {now} end").format(
                natural=sql.Identifier(natural),
                then=sql.Identifier(version, name),
                now=sql.Identifier("conformed", name),
            )
            for name in dimension.untracked
        ]
        return sql.SQL(", ").join(values)

    return {
        "table_name": sql.Literal(f"dwh.{dimension.table}"),
        "mirror_key": natural_values(batch.entity, "mirror")[natural],
        "mirror_table": sql.Literal(batch.entity.table.name),
        "waiting": waiting_table(dimension.entity),
        "key": sql.Identifier(dimension.key),
        "key_name": sql.Literal(dimension.key),
        "natural": sql.Identifier(natural),
        "columns": listed(columns),
        "version_columns": qualified("version", columns),
        "written_attributes": attributes("written"),
        "version_attributes": attributes("version"),
        "conformed_attributes": qualified("conformed", dimension.attributes),
        "member_attributes": sql.SQL(", ").join(
            sql.SQL("case when not member.is_inferred then {} end").format(sql.Identifier("member", name))
            for name in dimension.attributes
        ),
        "hash": row_hash(dimension, "conformed"),
        "beginning": sql.Literal(BEGINNING),
        "end": sql.Literal(END_OF_TIME),
    }


# Reconstruct each row as runs have written it: its first logged image, overwritten by the columns that runs updated
# since. If a run inserted or deleted the row, only later changes count.
_WRITTEN = """
    drop table if exists pg_temp.written, pg_temp.expected;
    create temp table written on commit drop as
    with logged as (
        select
            change.change_id, change.row_key, change.operation, change.run_id, change.changed_columns,
            change.before, change.after,
            coalesce(
                max(change.change_id)
                    filter (where change.operation in ('insert', 'delete') and change.run_id is not null)
                    over (partition by change.row_key), 0
            ) as born_in
        from audit.change_log as change
        where change.table_name = {table_name}
    ),

    first as (
        select distinct on (logged.row_key)
            logged.row_key, logged.operation = 'insert' and logged.run_id is null as is_forged,
            case when logged.operation = 'insert' then logged.after else logged.before end as image
        from logged
        where logged.change_id > logged.born_in or logged.change_id = logged.born_in and logged.operation = 'insert'
        order by logged.row_key, logged.change_id
    ),

    since as (
        select
            logged.row_key,
            jsonb_object_agg(changed.name, logged.after -> changed.name order by logged.change_id) as image
        from logged cross join lateral unnest(logged.changed_columns) as changed (name)
        where logged.operation = 'update' and logged.run_id is not null and logged.change_id > logged.born_in
        group by logged.row_key
    )

    select version.*
    from first
    left join since on since.row_key = first.row_key
    cross join lateral
        jsonb_populate_record(null::{target}, first.image || coalesce(since.image, '{{}}')) as version
    where not first.is_forged and version.source_system = {source};
    analyze pg_temp.written;
    create temp table expected on commit drop as select {columns} from {target} limit 0;
    create index on pg_temp.expected ({natural});
    create index on pg_temp.expected ({key});
"""

# Past versions without logged changes are kept if they are inferred, or if their closing run's changes were pruned.
_EXPECT_PAST = """
    insert into pg_temp.expected ({columns})
    select written.{key}, written.{natural}, {written_attributes}, written.valid_from, written.valid_to, false,
        written.is_inferred, written.row_hash, written.expired_by_run_id
    from pg_temp.written as written
    left join {conformed} as conformed on conformed.{natural} = written.{natural}
    where written.valid_to < {end};
    insert into pg_temp.expected ({columns})
    select version.{key}, version.{natural}, {version_attributes}, version.valid_from, version.valid_to, false,
        version.is_inferred, version.row_hash, version.expired_by_run_id
    from {target} as version
    left join {conformed} as conformed on conformed.{natural} = version.{natural}
    where version.source_system = {source} and not version.is_current
        and not exists (select from pg_temp.written as written where written.{key} = version.{key})
        and (
            version.is_inferred
            or exists (
                select from audit.run as closing
                where closing.run_id = version.expired_by_run_id and closing.pruned_at is not null
            )
        );
    analyze pg_temp.expected;
"""

# The current version begins as logged in the change log; else where its predecessor ended, if the same run closed that
# version and opened this one; else, for a reappeared member, when the source changed it or at the run's snapshot.
_EXPECT_PRESENT = """
    insert into pg_temp.expected ({columns})
    select
        coalesce(
            written.{key}, version.{key}, lost.key, nextval(pg_get_serial_sequence({table_name}, {key_name}))
        ),
        conformed.{natural}, {conformed_attributes},
        case
            when written.valid_from is not null then written.valid_from
            when past.valid_to is null then {beginning}::timestamptz
            when past.expired_by_run_id = version.run_id
                or version.{key} is null and mirror._run_id <= past.expired_by_run_id
                then past.valid_to
            when version.valid_from >= past.valid_to
                and (version.valid_from in (past.valid_to, conformed.changed_at, opened.captured_at)
                    or opened.captured_at is null)
                then version.valid_from
            when conformed.changed_at > past.valid_to and conformed.changed_at <= opened.captured_at
                then conformed.changed_at
            else greatest(past.valid_to, opened.captured_at)
        end,
        {end}::timestamptz, true, false, {hash}, null
    from {conformed} as conformed
    left join pg_temp.written as written
        on written.{natural} = conformed.{natural} and written.valid_to = {end}
    left join lateral (
        select version.{key}, version.valid_from, version.run_id from {target} as version
        where written.{key} is null and version.{natural} = conformed.{natural} and version.source_system = {source}
            and not exists (select from pg_temp.expected as past where past.{key} = version.{key})
            and not exists (select from pg_temp.written as other where other.{key} = version.{key})
        order by version.is_current desc, version.valid_from desc limit 1
    ) as version on true
    left join pg_temp.lost_key as lost on lost.natural_id = conformed.{natural}
    left join lateral (
        select past.valid_to, past.expired_by_run_id from pg_temp.expected as past
        where past.{natural} = conformed.{natural} order by past.valid_to desc limit 1
    ) as past on true
    left join {mirror} as mirror on {mirror_key} = conformed.{natural}
    left join lateral (
        select min(verification.captured_at) as captured_at from audit.verification as verification
        where verification.run_id = coalesce(version.run_id, mirror._run_id) and verification.source = {source}
            and verification.table_name = {mirror_table}
    ) as opened on past.valid_to is not null;
"""

# Members without a conformed row: inferred and quarantined ones stay open, those with a mirror row are closed.
_EXPECT_OTHERS = """
    insert into pg_temp.expected ({columns})
    select
        member.{key}, member.{natural}, {member_attributes}, member.valid_from,
        case when fate.has_ended
            then greatest(coalesce(fate.ended_at, now()), member.valid_from + interval '1 microsecond')
            else {end}::timestamptz
        end,
        not fate.has_ended, member.is_inferred, member.row_hash,
        case when fate.has_ended then coalesce(mirror._run_id, {run_id}) end
    from (
        select {version_columns} from pg_temp.written as version where version.valid_to = {end}
        union all
        select {version_columns} from {target} as version
        where version.source_system = {source} and version.is_current
            and not exists (select from pg_temp.written as written where written.{key} = version.{key})
    ) as member
    left join {waiting} as waiting on waiting.row_key = array[member.{natural}]
    left join {mirror} as mirror on {mirror_key} = member.{natural}
    cross join lateral (
        select not member.is_inferred and waiting.row_key is null as has_ended, (
            select min(verification.captured_at) from audit.verification as verification
            where verification.run_id = mirror._run_id and verification.source = {source}
                and verification.table_name = {mirror_table}
        ) as ended_at
    ) as fate
    where (not fate.has_ended or {mirror_key} is not null)
        and not exists (select from {conformed} as present where present.{natural} = member.{natural});
"""
