"""Members of other sources: what an entity's SQL delivers is looked up among them, and again once they have changed."""

from psycopg import sql

from warehouse.db.identifiers import assigned
from warehouse.extract.catalog import columns_of
from warehouse.load.batch import Batch
from warehouse.load.followed import looked_until
from warehouse.model.fact_sql import dimension_of
from warehouse.model.star import Fact
from warehouse.sources.lookups import Lookup


def resolve_lookups(batch: Batch) -> None:
    """Put the natural keys of other sources' members in place of the values that they were looked up by.

    Where several members have the value at the event, nobody knows which is meant: the key is empty, and the row counts
    as ambiguous. A value that no member has stays: it becomes an inferred member of the row's own source.
    """
    if not isinstance(batch.target, Fact) or not batch.entity.lookups:
        return
    for lookup in batch.entity.lookups:
        names = {**_names(lookup), "event": sql.Identifier("line", batch.target.event_time)}
        is_valid = (
            "and {event} >= member.valid_from and {event} < member.valid_to"
            if dimension_of(lookup.dimension).has_history
            else ""
        )
        batch.create_temporary(
            f"matched_{lookup.dimension}",
            f"""
            select line.ctid as place, min(member.{{natural}}) as natural_key, count(*) as members
            from {{conformed}} as line
            inner join {{dimension}} as member
                on member.{{by}} = line.{{natural}} and member.source_system = {{member_source}} {is_valid}
            group by line.ctid
            """,
            **names,
        )
    _replace_values(batch)


def _replace_values(batch: Batch) -> None:
    """Write what was found, of all lookups at once: each row is written anew."""
    lookups = batch.entity.lookups
    matched = [sql.Identifier(f"matched_{lookup.dimension}") for lookup in lookups]
    assignments, joins = [], []
    for lookup, name in zip(lookups, matched, strict=True):
        names = {**_names(lookup), "found": name}
        assignments.append(
            sql.SQL(
                "{natural} = case when {found}.members is null then line.{natural} "
                "when {found}.members = 1 then {found}.natural_key end, "
                "{source_column} = case when {found}.members is not null then {member_source} end"
            ).format(**names)
        )
        joins.append(sql.SQL("left join {matched} on {found}.place = own.place").format(**names))
    batch.execute(
        """
        update {conformed} as line set {assignments}
        from (select ctid as place from {conformed}) as own {joins}
        where line.ctid = own.place and ({any_found})
        """,
        assignments=sql.SQL(", ").join(assignments),
        joins=sql.SQL(" ").join(joins),
        any_found=sql.SQL(" or ").join(sql.SQL("{}.members is not null").format(name) for name in matched),
    )


def describe_inferred(batch: Batch) -> None:
    """Fill what the rows of the batch say of members that were inferred in their own source: customer_name, say."""
    held = columns_of(batch.connection, "staging", f"conformed_{batch.entity.name}")
    for lookup in batch.entity.lookups:
        dimension = dimension_of(lookup.dimension)
        names = _names(lookup)
        found_values = {
            name: sql.Identifier("line", column)
            for name in dimension.attributes
            if (column := f"{lookup.dimension}_{name}") in held
        }
        (natural,) = dimension.natural_key
        if lookup.by != natural:
            found_values[lookup.by] = sql.Identifier("line", natural)
        if not found_values:
            continue
        batch.execute(
            """
            update {dimension} as member set {assigned}
            from (
                select {natural}, {values} from {conformed} as line
                where {natural} is not null and {source_column} is null group by {natural}
            ) as line
            where member.source_system = {source} and member.{natural} = line.{natural} and member.is_inferred
                and member.run_id = {run_id}
            """,
            **names,
            values=sql.SQL(", ").join(
                sql.SQL("max({}) as {}").format(value, sql.Identifier(name))
                for name, value in found_values.items()
            ),
            assigned=assigned(list(found_values), "line"),
        )


def count_ambiguous(batch: Batch) -> dict[str, int]:
    """By dimension, how many rows of the batch name a value that several members have."""
    counts = {}
    for lookup in batch.entity.lookups:
        (count,) = batch.execute(
            "select count(*) from {matched} where members > 1", **_names(lookup)
        ).fetchone() or (0,)
        if count:
            counts[lookup.dimension] = count
    return counts


def changed_members(batch: Batch, lookup: Lookup) -> sql.Identifier | None:
    """Table of the members that runs have changed since this source last looked: surrogate key and value.

    None where nothing has. After an undo, all members count as changed.
    """
    row = batch.connection.execute(
        """
        select array_agg(distinct load.run_id), bool_or(run.flow = 'undo')
        from audit.load inner join audit.run using (run_id)
        where load.load_id > %s and load.source = %s
        """,
        [looked_until(batch), lookup.source],
    ).fetchone()
    if row is None or row[0] is None:
        return None
    runs, is_undone = row
    table = sql.Identifier("pg_temp", f"changed_{lookup.dimension}")
    has_history = dimension_of(lookup.dimension).has_history
    changed = "run_id = any({runs})" + (" or expired_by_run_id = any({runs})" if has_history else "")
    found = batch.create_temporary(
        f"changed_{lookup.dimension}",
        "select {key}, {by} as value from {dimension} where source_system = {member_source} and "
        f"({'true' if is_undone else changed})",
        **_names(lookup),
        runs=sql.Literal(runs),
    )
    return table if found else None


def _names(lookup: Lookup) -> dict[str, sql.Composable]:
    dimension = dimension_of(lookup.dimension)
    (natural,) = dimension.natural_key
    return {
        "dimension": sql.Identifier("dwh", dimension.table),
        "key": sql.Identifier(dimension.key),
        "natural": sql.Identifier(natural),
        "by": sql.Identifier(lookup.by),
        "member_source": sql.Literal(lookup.source),
        "source_column": sql.Identifier(f"{lookup.dimension}_source_system"),
        "matched": sql.Identifier("pg_temp", f"matched_{lookup.dimension}"),
    }
