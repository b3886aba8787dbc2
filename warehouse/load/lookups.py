"""Look up dimension members of other sources by a value that the conform SQL delivers, and again when they change."""

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from warehouse.extract.catalog import columns_of
from warehouse.load.batch import Batch
from warehouse.load.conformed_table import replace_conformed
from warehouse.load.followed import CORRECTING, looked_until
from warehouse.model.fact_sql import dimension_of
from warehouse.model.star import Fact
from warehouse.sources.lookups import Lookup


def resolve_lookups(batch: Batch) -> dict[str, int]:
    """Replace values in the conformed rows by the natural keys of the other sources' members that have these values.

    If several members have the value at the time of the event, the key becomes null and the row counts as ambiguous. A
    value that no member has is kept, and becomes an inferred member of the row's own source.

    Returns the number of ambiguous rows by dimension.
    """
    if not isinstance(batch.target, Fact):
        return {}
    matching = [lookup for lookup in batch.entity.lookups if _find_members(batch, lookup)]
    ambiguous = {lookup.dimension: count for lookup in matching if (count := _count_ambiguous(batch, lookup))}
    if matching:
        _replace_values(batch, matching)
    return ambiguous


def _find_members(batch: Batch, lookup: Lookup) -> int:
    """Fill a table with the batch's values that members have: per value, and per period of an SCD2 dimension, one
    member's natural key and the number of members. Returns its number of rows."""
    if not batch.exists(
        "select from {dimension} where source_system = {member_source}", **_names(batch, lookup)
    ):
        return 0
    query = _SLOTS if dimension_of(lookup.dimension).has_history else _MEMBERS
    matched = batch.create_temporary(_table("matched", batch, lookup), query, **_names(batch, lookup))
    if matched:
        batch.analyze(_names(batch, lookup)["matched"])
    return matched


_MEMBERS: Final = """
    select named.value, min(member.{natural}) as natural_key, count(*) as members
    from (select distinct {natural} as value from {conformed}) as named
    inner join {dimension} as member on named.value = member.{by} and member.source_system = {member_source}
    group by named.value
"""

# The members that have a value may change where a version with the value begins or ends: cut its time into slots there.
_SLOTS: Final = """
    with member as (
        select member.{by} as value, member.{natural} as natural_key, member.valid_from, member.valid_to
        from (select distinct {natural} as value from {conformed}) as named
        inner join {dimension} as member on named.value = member.{by} and member.source_system = {member_source}
    ),

    slot as (
        select value, bound as valid_from, lead(bound) over (partition by value order by bound) as valid_to
        from (select value, valid_from as bound from member union select value, valid_to from member) as bound
    )

    select slot.value, slot.valid_from, slot.valid_to, min(member.natural_key) as natural_key, count(*) as members
    from slot
    inner join member
        on slot.value = member.value and member.valid_from <= slot.valid_from and slot.valid_to <= member.valid_to
    group by slot.value, slot.valid_from, slot.valid_to
"""


def _count_ambiguous(batch: Batch, lookup: Lookup) -> int:
    """Count the rows of the batch whose value several members have."""
    if not batch.exists("select from {matched} where members > 1", **_names(batch, lookup)):
        return 0
    (count,) = batch.execute(
        "select count(*) from {conformed} as line inner join {matched} as matched on {is_match} "
        "where matched.members > 1",
        **_names(batch, lookup),
        is_match=_is_match(batch, lookup, sql.Identifier("matched")),
    ).fetchone() or (0,)
    return int(count)


def _is_match(batch: Batch, lookup: Lookup, matched: sql.Identifier) -> sql.Composable:
    assert isinstance(batch.target, Fact)
    condition = "{matched}.value = line.{natural}"
    if dimension_of(lookup.dimension).has_history:
        condition += " and line.{event} >= {matched}.valid_from and line.{event} < {matched}.valid_to"
    return sql.SQL(condition).format(
        **_names(batch, lookup) | {"matched": matched}, event=sql.Identifier(batch.target.event_time)
    )


def _replace_values(batch: Batch, lookups: Sequence[Lookup]) -> None:
    """Write the keys of all lookups into a new table of conformed rows; updates would write each row twice."""
    values: dict[str, sql.Composable] = {}
    joins = []
    for lookup in lookups:
        alias = sql.Identifier(_table("matched", batch, lookup))
        names = {**_names(batch, lookup), "found": alias}
        values |= {
            dimension_of(lookup.dimension).natural_key[0]: sql.SQL(
                "case when {found}.members is null then line.{natural} "
                "when {found}.members = 1 then {found}.natural_key end"
            ).format(**names),
            f"{lookup.dimension}_source_system": sql.SQL(
                "case when {found}.members is not null then {member_source} end"
            ).format(**names),
        }
        joins.append(
            sql.SQL("left join {matched} as {found} on {is_match}").format(
                **names, is_match=_is_match(batch, lookup, alias)
            )
        )
    replace_conformed(
        batch,
        lambda column: values.get(column, sql.Identifier("line", column)),
        batch.format("{conformed} as line {joins}", joins=sql.SQL(" ").join(joins)),
    )


def describe_inferred(batch: Batch) -> None:
    """Fill attributes of newly inferred members from columns of the batch's rows, such as customer_name."""
    held = columns_of(batch.connection, "staging", f"conformed_{batch.entity.name}")
    for lookup in batch.entity.lookups:
        dimension = dimension_of(lookup.dimension)
        names = _names(batch, lookup)
        (natural,) = dimension.natural_key
        described = {
            name: sql.Identifier("line", column)
            for name in dimension.attributes
            if name != lookup.by and (column := f"{lookup.dimension}_{name}") in held
        }
        assignments = [sql.SQL("{} = line.{}").format(*[sql.Identifier(name)] * 2) for name in described]
        if lookup.by != natural:
            assignments.append(sql.SQL("{by} = member.{natural}").format(**names))
        if not assignments:
            continue
        lines: sql.Composable = sql.SQL("")
        is_named: sql.Composable = sql.SQL("")
        if described:
            is_named = sql.SQL("and member.{natural} = line.{natural}").format(**names)
            # The planner has no statistics of the members just inferred, and would scan the lines for each of them.
            batch.create_temporary(
                _table("described", batch, lookup),
                "select {natural}, {values} from {conformed} as line "
                "where {natural} is not null and {source_column} is null group by {natural}",
                **names,
                values=sql.SQL(", ").join(
                    sql.SQL("max({}) as {}").format(value, sql.Identifier(name))
                    for name, value in described.items()
                ),
            )
            table = sql.Identifier("pg_temp", _table("described", batch, lookup))
            batch.analyze(table)
            lines = sql.SQL("from {} as line").format(table)
        batch.execute(
            """
            update {dimension} as member set {assigned}
            {lines}
            where member.source_system = {source} and member.is_inferred and member.run_id = {run_id} {is_named}
            """,
            **names,
            assigned=sql.SQL(", ").join(assignments),
            lines=lines,
            is_named=is_named,
        )


def changed_members(batch: Batch, lookup: Lookup) -> sql.Identifier | None:
    """Fill a table with the members that runs have changed since `looked_until`: surrogate key and looked-up value.

    None if no run has changed any. After an undo or a repair, all members count as changed, even if none is left.
    """
    row = batch.connection.execute(
        """
        select array_agg(distinct load.run_id), bool_or(run.flow = any(%s))
        from audit.load inner join audit.run using (run_id)
        where load.load_id > %s and load.source = %s
        """,
        [list(CORRECTING), looked_until(batch), lookup.source],
    ).fetchone()
    if row is None or row[0] is None:
        return None
    runs, are_corrected = row
    table = sql.Identifier("pg_temp", _table("changed", batch, lookup))
    has_history = dimension_of(lookup.dimension).has_history
    changed = "run_id = any({runs})" + (" or expired_by_run_id = any({runs})" if has_history else "")
    rows = batch.create_temporary(
        _table("changed", batch, lookup),
        "select {key}, {by} as value from {dimension} where source_system = {member_source} and "
        f"({'true' if are_corrected else changed})",
        **_names(batch, lookup),
        runs=sql.Literal(runs),
    )
    return table if rows or are_corrected else None


def _table(what: str, batch: Batch, lookup: Lookup) -> str:
    """Name a temporary table; the entity is a part of it, because a reconcile has batches of several entities open."""
    return f"{what}_{batch.entity.name}_{lookup.dimension}"


def _names(batch: Batch, lookup: Lookup) -> dict[str, sql.Composable]:
    dimension = dimension_of(lookup.dimension)
    (natural,) = dimension.natural_key
    return {
        "dimension": sql.Identifier("dwh", dimension.table),
        "key": sql.Identifier(dimension.key),
        "natural": sql.Identifier(natural),
        "by": sql.Identifier(lookup.by),
        "member_source": sql.Literal(lookup.source),
        "source_column": sql.Identifier(f"{lookup.dimension}_source_system"),
        "matched": sql.Identifier("pg_temp", _table("matched", batch, lookup)),
    }
