"""SCD2: close the open version of a changed member and open a new one; intervals are half-open, one is current."""

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from warehouse.db.identifiers import assigned, differ, listed, qualified
from warehouse.load.batch import Batch, closed_table, late_table
from warehouse.load.counts import Counts
from warehouse.model.star import BEGINNING, END_OF_TIME, Dimension

OWN_SOURCE: Final = sql.SQL("fact.source_system")
# Assignments of times after the end of validity, one interval per `number` of a row, so that no versions overlap while
# their times are moved.
PARKED: Final = sql.SQL(
    "valid_from = timestamptz '3000-01-01' + number * interval '2 s', "
    "valid_to = timestamptz '3000-01-01' + number * interval '2 s' + interval '1 s', is_current = false"
)


def merge(batch: Batch, dimension: Dimension) -> Counts:
    """Merge conformed rows and deleted keys into an SCD2 dimension.

    A new version starts at the source's timestamp of the change, if that is after the open version's start and not
    after the snapshot (`taken_at`); else at the snapshot. A member's first version starts at the beginning of time,
    since events that refer to it may be older than the first capture. A deleted member is closed at the snapshot; when
    it reappears, a new version starts. Attributes of an inferred member are filled in place, so its facts keep their
    key. In a reconform, nothing has changed in the source: the open version is corrected in place, and columns that are
    new in the dimension are filled in all versions.
    """
    is_reconform = batch.reconform_reason is not None
    names = {
        **_names(dimension),
        "taken_at": sql.Literal(batch.taken_at),
        "changed": sql.Literal("corrected" if is_reconform else "changed"),
        "is_wrong": sql.SQL("or version.row_hash <> {}").format(row_hash(dimension, "conformed"))
        if is_reconform
        else sql.SQL(""),
    }
    batch.replace_temporary(f"verdict_{dimension.entity}", _COMPARE, **names)
    batch.analyze(batch.names["verdicts"])
    if not batch.is_full_load:
        batch.ensure_temporary(
            f"late_{dimension.entity}", "select {natural}, open_key, verdict from {verdicts} limit 0", **names
        )
        batch.execute(_KEEP_LATE, **names)
    added = _new_columns(batch, dimension) if is_reconform else []
    filled = batch.execute(_FILL_IN_PLACE, **names).rowcount
    if added:
        filled += batch.execute(_FILL_NEW_COLUMNS, **names, **_added_names(dimension, added)).rowcount
    batch.ensure_temporary(
        f"closed_{dimension.entity}", "select {key}, valid_to from {dimension} limit 0", **names
    )
    expired = batch.execute(_CLOSE, **names).rowcount
    expired += batch.execute(_CLOSE_DELETED, **names).rowcount
    inserted = batch.execute(_OPEN, **names).rowcount
    overwritten = batch.execute(_OVERWRITE_UNTRACKED, **names).rowcount if dimension.untracked else 0
    return Counts(inserted=inserted, updated=filled + overwritten, expired=expired)


def infer_missing(
    batch: Batch,
    dimension: Dimension,
    facts: sql.Identifier,
    event_time: str,
    member_source: sql.Composable = OWN_SOURCE,
) -> int:
    """Insert inferred versions of members for events in `facts` that no version covers; returns their number.

    `member_source` is the expression, over a row `fact`, for the source system of its member.
    """
    names = {
        **_names(dimension),
        "facts": facts,
        "event": sql.Identifier(event_time),
        "member_source": member_source,
        "untracked": sql.SQL("").join(
            sql.SQL(", {}").format(sql.Identifier(name)) for name in dimension.untracked
        ),
        "present_untracked": sql.SQL("").join(
            sql.SQL(", {}").format(sql.Identifier("present", name)) for name in dimension.untracked
        ),
    }
    uncovered = batch.create_temporary("uncovered_members", _FIND_UNCOVERED, **names)
    if not uncovered:
        return 0
    inferred = batch.execute(_INFER_UNKNOWN, **names).rowcount
    if inferred == uncovered:
        return inferred
    batch.analyze(sql.Identifier("pg_temp", "uncovered_members"))
    return inferred + batch.execute(_INFER, **names).rowcount


def row_hash(dimension: Dimension, table: str) -> sql.Composable:
    """Expression for the hash of the tracked attributes in `table`, as stored in row_hash."""
    return sql.SQL("hashtextextended(row({})::text, 0)").format(qualified(table, dimension.tracked))


def _new_columns(batch: Batch, dimension: Dimension) -> list[str]:
    """Return tracked columns that the last definition did not have; if that is unknown, those that are always null."""
    if batch.new_columns is not None:
        return [name for name in dimension.tracked if name in batch.new_columns]
    counts = batch.execute(
        "select {counts} from {target} where source_system = {source}",
        counts=sql.SQL(", ").join(
            sql.SQL("count({})").format(sql.Identifier(name)) for name in dimension.tracked
        ),
    ).fetchone()
    return [name for name, count in zip(dimension.tracked, counts or (), strict=True) if not count]


def _added_names(dimension: Dimension, added: Sequence[str]) -> dict[str, sql.Composable]:
    after = [sql.Identifier("conformed" if name in added else "version", name) for name in dimension.tracked]
    return {
        "assign_added": assigned(added, "conformed"),
        "added_differ": differ(added, "version", "conformed"),
        "hash_after": sql.SQL("hashtextextended(row({})::text, 0)").format(sql.SQL(", ").join(after)),
    }


def _names(dimension: Dimension) -> dict[str, sql.Composable]:
    columns = dimension.attributes
    return {
        "dimension": sql.Identifier("dwh", dimension.table),
        "key": sql.Identifier(dimension.key),
        "closed": closed_table(dimension.entity),
        "late": late_table(dimension.entity),
        "natural": sql.Identifier(*dimension.natural_key),
        "attributes": listed(columns),
        "conformed_attributes": qualified("conformed", columns),
        "assign_all": assigned(columns, "conformed"),
        "assign_untracked": assigned(dimension.untracked, "conformed"),
        "hash": row_hash(dimension, "conformed"),
        "beginning": sql.Literal(BEGINNING),
        "end": sql.Literal(END_OF_TIME),
        "tracked_differ": differ(dimension.tracked, "version", "conformed"),
        "untracked_differ": differ(dimension.untracked, "version", "conformed"),
    }


_COMPARE = """
    select
        conformed.{natural},
        version.{key} as open_key,
        case
            when version.{key} is null and last.valid_to is null then 'first'
            when version.{key} is null then 'reappeared'
            when version.is_inferred then 'inferred'
            when {tracked_differ} {is_wrong} then {changed}
            when {untracked_differ} then 'overwritten'
        end as verdict,
        case
            when version.{key} is null and last.valid_to is null then {beginning}::timestamptz
            when conformed.changed_at > greatest(coalesce(version.valid_from, last.valid_to))
                and conformed.changed_at <= {taken_at}::timestamptz then conformed.changed_at
            -- if the clock stands still or was set back, the version before must still have a length
            else greatest(
                {taken_at}::timestamptz, coalesce(version.valid_from + interval '1 microsecond', last.valid_to)
            )
        end as starts_at
    from {conformed} as conformed
    left join {dimension} as version
        on version.{natural} = conformed.{natural} and version.source_system = conformed.source_system
        and version.is_current
    left join lateral (
        select max(earlier.valid_to) as valid_to
        from {dimension} as earlier
        where version.{key} is null
            and earlier.{natural} = conformed.{natural} and earlier.source_system = conformed.source_system
    ) as last on true
    where version.{key} is null or version.is_inferred
        or {tracked_differ}
        or {untracked_differ}
        {is_wrong}
"""

_KEEP_LATE = """
    insert into {late}
    select {natural}, open_key, verdict from {verdicts} where verdict in ('inferred', 'first', 'reappeared')
"""

_FILL_IN_PLACE = """
    update {dimension} as version
    set {assign_all}, is_inferred = false, row_hash = {hash}, run_id = {run_id}
    from {verdicts} as verdict
    inner join {conformed} as conformed on conformed.{natural} = verdict.{natural}
    where verdict.verdict in ('inferred', 'corrected') and version.{key} = verdict.open_key
"""

_FILL_NEW_COLUMNS = """
    update {dimension} as version
    set {assign_added}, row_hash = case when version.is_inferred then version.row_hash else {hash_after} end,
        run_id = {run_id}
    from {conformed} as conformed
    where version.{natural} = conformed.{natural} and version.source_system = {source}
        and not version.is_current
        and ({added_differ} or not version.is_inferred and version.row_hash <> {hash_after})
"""

# Type 1 attributes are overwritten in all versions: analysts want today's e-mail on old orders.
_OVERWRITE_UNTRACKED = """
    update {dimension} as version
    set {assign_untracked}, run_id = {run_id}
    from {verdicts} as verdict
    inner join {conformed} as conformed on conformed.{natural} = verdict.{natural}
    where verdict.verdict <> 'first'
        and version.{natural} = verdict.{natural} and version.source_system = {source} and {untracked_differ}
"""

_CLOSE = """
    with closed as (
        update {dimension} as version
        set valid_to = verdict.starts_at, is_current = false, expired_by_run_id = {run_id}
        from {verdicts} as verdict
        where verdict.verdict = 'changed' and version.{key} = verdict.open_key
        returning version.{key}, version.valid_to
    )
    insert into {closed} select {key}, valid_to from closed
"""

# Inferred versions stay open: the source never had the member, and facts still refer to it.
_CLOSE_DELETED = """
    with closed as (
        update {dimension} as version
        set
            valid_to = greatest({taken_at}::timestamptz, version.valid_from + interval '1 microsecond'),
            is_current = false,
            expired_by_run_id = {run_id}
        from {deleted_keys} as deleted
        where version.{natural} = deleted.{natural} and version.source_system = {source} and version.is_current
            and not version.is_inferred
        returning version.{key}, version.valid_to
    )
    insert into {closed} select {key}, valid_to from closed
"""

_OPEN = """
    insert into {dimension} (source_system, {natural}, {attributes}, valid_from, row_hash, run_id)
    select conformed.source_system, conformed.{natural}, {conformed_attributes}, verdict.starts_at, {hash}, {run_id}
    from {verdicts} as verdict
    inner join {conformed} as conformed on conformed.{natural} = verdict.{natural}
    where verdict.verdict in ('first', 'reappeared', 'changed')
"""

# For most members, one version covers all events from the first to the last; _INFER compares only the events of the
# others one by one. A gap lasts from the end of the version before it, or the beginning of time, to the start of the
# version after it, or the end of time.
_FIND_UNCOVERED = """
    with named as (
        select
            {member_source} as source_system, fact.{natural},
            min(fact.{event}) as first_at, max(fact.{event}) as last_at
        from {facts} as fact
        where fact.{natural} is not null
            and fact.{event} >= {beginning}::timestamptz and fact.{event} < {end}::timestamptz
        group by {member_source}, fact.{natural}
    )

    select
        named.source_system, named.{natural},
        not exists (
            select from {dimension} as version
            where version.{natural} = named.{natural} and version.source_system = named.source_system
        ) as is_unknown
    from named
    left join {dimension} as covering
        on covering.{natural} = named.{natural} and covering.source_system = named.source_system
        and covering.valid_from <= named.first_at and named.last_at < covering.valid_to
    where covering.{key} is null
"""

# A member without any version gets one that is valid for all time.
_INFER_UNKNOWN = """
    insert into {dimension} (source_system, {natural}, valid_from, valid_to, is_current, is_inferred, row_hash, run_id)
    select source_system, {natural}, {beginning}::timestamptz, {end}::timestamptz, true, true, 0, {run_id}
    from pg_temp.uncovered_members where is_unknown
"""

# Type 1 attributes are copied from the current version, since they are the same in all versions of a member.
_INFER = """
    insert into {dimension}
        (source_system, {natural}, valid_from, valid_to, is_current, is_inferred, row_hash, run_id{untracked})
    select distinct
        {member_source}, fact.{natural}, gap.valid_from, gap.valid_to, gap.valid_to = {end}::timestamptz,
        true, 0, {run_id}{present_untracked}
    from pg_temp.uncovered_members as uncovered
    inner join {facts} as fact
        on fact.{natural} = uncovered.{natural} and {member_source} = uncovered.source_system
    left join {dimension} as covering
        on covering.{natural} = fact.{natural} and covering.source_system = {member_source}
        and covering.valid_from <= fact.{event} and fact.{event} < covering.valid_to
    left join {dimension} as present
        on present.{natural} = fact.{natural} and present.source_system = {member_source}
        and present.is_current and not present.is_inferred
    cross join lateral (
        select
            coalesce(max(other.valid_to) filter (where other.valid_to <= fact.{event}), {beginning}::timestamptz)
                as valid_from,
            coalesce(min(other.valid_from) filter (where other.valid_from > fact.{event}), {end}::timestamptz)
                as valid_to
        from {dimension} as other
        where other.{natural} = fact.{natural} and other.source_system = {member_source}
    ) as gap
    where covering.{key} is null and not uncovered.is_unknown
        and fact.{event} >= {beginning}::timestamptz and fact.{event} < {end}::timestamptz
"""
