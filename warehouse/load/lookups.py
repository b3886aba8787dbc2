"""Look up dimension members of other sources by a value that the conform SQL delivers, and again when they change."""

from collections.abc import Mapping, Sequence
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

    Of several sources, the first that has the value at the time of the event counts. If several members of it have the
    value then, the key becomes null and the row counts as ambiguous. A value that no member has is kept, and becomes an
    inferred member of the row's own source.

    Returns the number of ambiguous rows by dimension.
    """
    if not isinstance(batch.target, Fact):
        return {}
    matching: dict[str, list[Lookup]] = {}
    for lookup in batch.entity.lookups:
        if _find_members(batch, lookup):
            matching.setdefault(lookup.dimension, []).append(lookup)
    counts = {dimension: _count_ambiguous(batch, lookups) for dimension, lookups in matching.items()}
    if matching:
        _replace_values(batch, matching)
    return {dimension: count for dimension, count in counts.items() if count}


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


def _count_ambiguous(batch: Batch, lookups: Sequence[Lookup]) -> int:
    """Count the rows of the batch whose value several members of the first source with the value have."""
    if not any(
        batch.exists("select from {matched} where members > 1", **_names(batch, one)) for one in lookups
    ):
        return 0
    (count,) = batch.execute(
        "select count(*) from {conformed} as line {joins} where coalesce({members}) > 1",
        joins=_join(batch, lookups),
        members=_of_each(batch, lookups, "{matched_as}.members"),
    ).fetchone() or (0,)
    return int(count)


def _join(batch: Batch, lookups: Sequence[Lookup]) -> sql.Composable:
    return sql.SQL(" ").join(
        sql.SQL("left join {matched} as {matched_as} on {is_match}").format(
            **_names(batch, lookup), is_match=_is_match(batch, lookup)
        )
        for lookup in lookups
    )


def _of_each(batch: Batch, lookups: Sequence[Lookup], text: str, separator: str = ", ") -> sql.Composable:
    """Join an expression over the matches of each lookup, in order of precedence."""
    return sql.SQL(separator).join(sql.SQL(text).format(**_names(batch, lookup)) for lookup in lookups)


def _is_match(batch: Batch, lookup: Lookup) -> sql.Composable:
    assert isinstance(batch.target, Fact)
    condition = "{matched_as}.value = line.{natural}"
    if dimension_of(lookup.dimension).has_history:
        condition += " and line.{event} >= {matched_as}.valid_from and line.{event} < {matched_as}.valid_to"
    return sql.SQL(condition).format(**_names(batch, lookup), event=sql.Identifier(batch.target.event_time))


def _replace_values(batch: Batch, matching: Mapping[str, Sequence[Lookup]]) -> None:
    """Write the keys of all lookups into a new table of conformed rows; updates would write each row twice."""
    values: dict[str, sql.Composable] = {}
    for dimension, lookups in matching.items():
        (natural,) = dimension_of(dimension).natural_key
        values |= {
            natural: sql.SQL(
                "case when coalesce({members}) is null then line.{natural} "
                "when coalesce({members}) = 1 then coalesce({keys}) end"
            ).format(
                natural=sql.Identifier(natural),
                members=_of_each(batch, lookups, "{matched_as}.members"),
                keys=_of_each(batch, lookups, "{matched_as}.natural_key"),
            ),
            f"{dimension}_source_system": sql.SQL("case {} end").format(
                _of_each(batch, lookups, "when {matched_as}.members is not null then {member_source}", " ")
            ),
        }
    replace_conformed(
        batch,
        lambda column: values.get(column, sql.Identifier("line", column)),
        batch.format(
            "{conformed} as line {joins}",
            joins=_join(batch, [lookup for lookups in matching.values() for lookup in lookups]),
        ),
    )


def describe_inferred(batch: Batch) -> None:
    """Fill attributes of newly inferred members from columns of the batch's rows, such as customer_name."""
    held = columns_of(batch.connection, "staging", f"conformed_{batch.entity.name}")
    for lookup in {one.dimension: one for one in batch.entity.lookups}.values():
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
    return f"{what}_{batch.entity.name}_{lookup.dimension}_{batch.entity.lookups.index(lookup)}"


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
        "matched_as": sql.Identifier(_table("matched", batch, lookup)),
    }
