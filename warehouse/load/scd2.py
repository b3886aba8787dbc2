"""SCD2: a changed member closes its version and opens another; half-open, gapless, at most one current."""

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.load.conform import batch_table
from warehouse.model.star import BEGINNING, END_OF_TIME, Dimension


def merge_history(
    connection: psycopg.Connection, run_id: int, source: str, taken_at: object, dimension: Dimension
) -> dict[str, int]:
    """Merge the batch and pg_temp.removed into an SCD2 dimension; rows inserted, updated and closed.

    A new version starts when the source says that it changed, if that is after the open version's start and not after
    the snapshot (`taken_at`); else at the snapshot. A member's first version holds since ever, since events that name
    it may be older than the first capture. A member that vanished is closed at the snapshot; one that reappears opens
    a new version then. Values that an inferred member lacks are filled in place, so its facts keep their key.
    """
    names = _names_of(dimension, run_id, source, taken_at)
    connection.execute(sql.SQL(_COMPARE).format(**names))
    analyze_briefly(connection, names["compared"])
    filled = connection.execute(sql.SQL(_FILL_INFERRED).format(**names)).rowcount
    closed = connection.execute(sql.SQL(_CLOSE).format(**names)).rowcount
    closed += connection.execute(sql.SQL(_CLOSE_REMOVED).format(**names)).rowcount
    inserted = connection.execute(sql.SQL(_OPEN).format(**names)).rowcount
    overwritten = 0
    if dimension.untracked:
        overwritten = connection.execute(sql.SQL(_OVERWRITE_UNTRACKED).format(**names)).rowcount
    return {"inserted": inserted, "updated": filled + overwritten, "closed": closed}


def infer_missing(
    connection: psycopg.Connection,
    run_id: int,
    source: str,
    dimension: Dimension,
    facts: sql.Identifier,
    event_time: str,
) -> int:
    """Give each member that `facts` name and no version covers at its event an inferred version; how many."""
    names = _names_of(dimension, run_id, source, None) | {
        "facts": facts,
        "event": sql.Identifier(event_time),
    }
    connection.execute(sql.SQL(_FIND_DOUBTFUL).format(**names))
    if not connection.execute("select from pg_temp.doubtful limit 1").rowcount:
        return 0
    connection.execute("analyze pg_temp.doubtful")
    return connection.execute(sql.SQL(_INFER).format(**names)).rowcount


def _names_of(dimension: Dimension, run_id: int, source: str, taken_at: object) -> dict[str, sql.Composable]:
    (natural,) = dimension.natural_key
    columns = dimension.attributes

    def listed(table: str, names: tuple[str, ...]) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(table, name) for name in names)

    return {
        "dimension": sql.Identifier("dwh", dimension.table),
        "batch": batch_table(dimension.entity),
        # Kept until the commit: facts are looked up again by these verdicts.
        "compared": sql.Identifier("pg_temp", f"compared_{dimension.entity}"),
        "compared_name": sql.Identifier(f"compared_{dimension.entity}"),
        "key": sql.Identifier(dimension.key),
        "natural": sql.Identifier(natural),
        "attributes": sql.SQL(", ").join(map(sql.Identifier, columns)),
        "batch_attributes": listed("batch", columns),
        "version_tracked": listed("version", dimension.tracked),
        "batch_tracked": listed("batch", dimension.tracked),
        "version_untracked": listed("version", dimension.untracked),
        "batch_untracked": listed("batch", dimension.untracked),
        "assign_all": _assign(columns),
        "assign_untracked": _assign(dimension.untracked),
        "hash": sql.SQL("hashtextextended(row({})::text, 0)").format(listed("batch", dimension.tracked)),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
        "taken_at": sql.Literal(taken_at),
        "beginning": sql.Literal(BEGINNING),
        "end": sql.Literal(END_OF_TIME),
        "untracked_differ": sql.SQL("row({}) is distinct from row({})").format(
            listed("version", dimension.untracked), listed("batch", dimension.untracked)
        )
        if dimension.untracked
        else sql.SQL("false"),
    }


def _assign(columns: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("{0} = batch.{0}").format(sql.Identifier(name)) for name in columns)


_COMPARE = """
    drop table if exists {compared};
    create temp table {compared_name} on commit drop as
    select
        batch.{natural},
        version.{key} as open_key,
        case
            when version.{key} is null and last.valid_to is null then 'first'
            when version.{key} is null then 'reappeared'
            when version.is_inferred then 'inferred'
            when row({version_tracked}) is distinct from row({batch_tracked}) then 'changed'
            when {untracked_differ} then 'overwritten'
        end as verdict,
        case
            when version.{key} is null and last.valid_to is null then {beginning}::timestamptz
            when batch.changed_at > greatest(coalesce(version.valid_from, last.valid_to))
                and batch.changed_at <= {taken_at}::timestamptz then batch.changed_at
            -- a clock that stands still or runs back must not make a version of no length
            else greatest(
                {taken_at}::timestamptz, coalesce(version.valid_from + interval '1 microsecond', last.valid_to)
            )
        end as starts_at
    from {batch} as batch
    left join {dimension} as version
        on version.{natural} = batch.{natural} and version.source_system = batch.source_system and version.is_current
    left join lateral (
        select max(earlier.valid_to) as valid_to
        from {dimension} as earlier
        where version.{key} is null
            and earlier.{natural} = batch.{natural} and earlier.source_system = batch.source_system
    ) as last on true
    where version.{key} is null or version.is_inferred
        or row({version_tracked}) is distinct from row({batch_tracked})
        or {untracked_differ}
"""

_FILL_INFERRED = """
    update {dimension} as version
    set {assign_all}, is_inferred = false, row_hash = {hash}, run_id = {run_id}
    from {compared} as compared
    inner join {batch} as batch on batch.{natural} = compared.{natural}
    where compared.verdict = 'inferred' and version.{key} = compared.open_key
"""

# Of what is not tracked only the present matters: every version of the member shows it.
_OVERWRITE_UNTRACKED = """
    update {dimension} as version
    set {assign_untracked}, run_id = {run_id}
    from {compared} as compared
    inner join {batch} as batch on batch.{natural} = compared.{natural}
    where compared.verdict <> 'first'
        and version.{natural} = compared.{natural} and version.source_system = {source} and {untracked_differ}
"""

_CLOSE = """
    update {dimension} as version
    set valid_to = compared.starts_at, is_current = false, expired_by_run_id = {run_id}
    from {compared} as compared
    where compared.verdict = 'changed' and version.{key} = compared.open_key
"""

_CLOSE_REMOVED = """
    update {dimension} as version
    set
        valid_to = greatest({taken_at}::timestamptz, version.valid_from + interval '1 microsecond'),
        is_current = false,
        expired_by_run_id = {run_id}
    from pg_temp.removed as removed
    where version.{natural} = removed.{natural} and version.source_system = {source} and version.is_current
"""

_OPEN = """
    insert into {dimension} (source_system, {natural}, {attributes}, valid_from, row_hash, run_id)
    select batch.source_system, batch.{natural}, {batch_attributes}, compared.starts_at, {hash}, {run_id}
    from {compared} as compared
    inner join {batch} as batch on batch.{natural} = compared.{natural}
    where compared.verdict in ('first', 'reappeared', 'changed')
"""

# Most members are covered by one version from their first event to their last: only the others' events are looked at
# one by one. A hole reaches from the version before it, or since ever, to the version after it, or for ever.
_FIND_DOUBTFUL = """
    drop table if exists pg_temp.doubtful;
    create temp table doubtful on commit drop as
    with named as (
        select fact.source_system, fact.{natural}, min(fact.{event}) as first_at, max(fact.{event}) as last_at
        from {facts} as fact
        where fact.{natural} is not null
            and fact.{event} >= {beginning}::timestamptz and fact.{event} < {end}::timestamptz
        group by fact.source_system, fact.{natural}
    )

    select named.source_system, named.{natural}
    from named
    left join {dimension} as covering
        on covering.{natural} = named.{natural} and covering.source_system = named.source_system
        and covering.valid_from <= named.first_at and named.last_at < covering.valid_to
    where covering.{key} is null
"""

_INFER = """
    insert into {dimension} (source_system, {natural}, valid_from, valid_to, is_current, is_inferred, row_hash, run_id)
    select distinct
        fact.source_system, fact.{natural}, hole.valid_from, hole.valid_to, hole.valid_to = {end}::timestamptz,
        true, 0, {run_id}
    from pg_temp.doubtful as doubtful
    inner join {facts} as fact on fact.{natural} = doubtful.{natural} and fact.source_system = doubtful.source_system
    left join {dimension} as covering
        on covering.{natural} = fact.{natural} and covering.source_system = fact.source_system
        and covering.valid_from <= fact.{event} and fact.{event} < covering.valid_to
    cross join lateral (
        select
            coalesce(max(around.valid_to) filter (where around.valid_to <= fact.{event}), {beginning}::timestamptz)
                as valid_from,
            coalesce(min(around.valid_from) filter (where around.valid_from > fact.{event}), {end}::timestamptz)
                as valid_to
        from {dimension} as around
        where around.{natural} = fact.{natural} and around.source_system = fact.source_system
    ) as hole
    where covering.{key} is null
        and fact.{event} >= {beginning}::timestamptz and fact.{event} < {end}::timestamptz
"""
