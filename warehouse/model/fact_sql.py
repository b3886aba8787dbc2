"""Build the query for the rows of a fact: its business SQL, joined to dimensions and dates as declared."""

from collections.abc import Iterable
from pathlib import Path

from psycopg import sql

from warehouse.model.declaration import DailySnapshot, DateKey, Dimension, Fact, Reference
from warehouse.model.star import DIMENSIONS, FACTS

FACTS_SQL = Path(__file__).parent / "facts"
# Column with the ctid of a line that refers to a missing dimension member; null for all other lines.
INCOMPLETE_LINE = "_incomplete_line"


def fact_query(
    fact: Fact, lines: sql.Identifier | None = None, *, with_incomplete: bool = False
) -> sql.Composed:
    """Select the rows of a fact from its batch, or from `lines` of it, each joined to the versions valid at its event.

    `facts/<entity>.sql` selects measures and attributes; it may read `line` and each dimension by its name. With
    `with_incomplete`, column INCOMPLETE_LINE marks lines that refer to a missing dimension member.
    """
    key = [*fact.natural_key, "source_system"]
    event = sql.Identifier("line", fact.event_time)
    columns: list[sql.Composable] = [
        *(sql.Identifier("line", name) for name in dict.fromkeys([*key, fact.event_time])),
        *(_date_key(date, fact) for date in fact.dates),
        *map(_key, fact.refers_to),
        *(sql.Identifier("calculated", column.name) for column in (*fact.measures, *fact.attributes)),
    ]
    if with_incomplete:
        is_incomplete = sql.SQL(" or ").join([sql.SQL("false"), *map(_lacks_member, fact.refers_to)])
        columns.append(
            sql.SQL("case when {} then line.ctid end as {}").format(
                is_incomplete, sql.Identifier(INCOMPLETE_LINE)
            )
        )
    return sql.SQL(
        """
        select {columns}
        from {lines} as line
        {lookups}
        cross join lateral (
            {query}
        ) as calculated
        """
    ).format(
        columns=_each(columns),
        lines=lines or sql.Identifier("staging", f"conformed_{fact.entity}"),
        lookups=sql.SQL("\n").join(_lookup(reference, event) for reference in fact.refers_to),
        query=sql.SQL((FACTS_SQL / f"{fact.entity}.sql").read_text().strip().rstrip(";")),
    )


def snapshot_query(snapshot: DailySnapshot, lines: sql.Composable) -> sql.Composed:
    """Select the rows of a daily snapshot from its lines, each joined to the versions valid when its day began."""
    began_at = sql.SQL("(line.snapshot_date::timestamp at time zone mart.time_zone())")
    measures = [measure.name for measure in snapshot.measures]
    return sql.SQL(
        """
        select {line}, to_char(line.snapshot_date, 'YYYYMMDD')::integer as snapshot_date_key, {keys}, {measures}
        from ({lines}) as line
        {lookups}
        """
    ).format(
        line=_each(
            sql.Identifier("line", name)
            for name in ("snapshot_date", *snapshot.natural_key, "source_system", "is_carried_forward")
        ),
        keys=_each(map(_key, snapshot.refers_to)),
        measures=_each(sql.Identifier("line", name) for name in measures),
        lines=lines,
        lookups=sql.SQL("\n").join(
            _lookup(reference, began_at, is_fact=False) for reference in snapshot.refers_to
        ),
    )


def snapshot_columns(snapshot: DailySnapshot) -> list[str]:
    """Return the columns that `snapshot_query` selects."""
    return [
        "snapshot_date",
        *snapshot.natural_key,
        "source_system",
        "is_carried_forward",
        "snapshot_date_key",
        *(reference.key.name for reference in snapshot.refers_to),
        *(measure.name for measure in snapshot.measures),
    ]


def select_with_members(table: str, rows: sql.Composable | None = None) -> sql.Composed:
    """Select all rows of a star table, or `rows` with its columns; for a fact, with the natural keys of its members."""
    rows = rows or sql.Identifier("dwh", table)
    fact = next((one for one in FACTS if one.table == table), None)
    if fact is None:
        return sql.SQL("select held.* from {} as held").format(rows)
    own = {column.name for column in (*fact.grain, *fact.attributes)}
    members: list[sql.Composable] = [sql.SQL("held.*")]
    joins: list[sql.Composable] = []
    for reference in fact.refers_to:
        (natural,) = dimension_of(reference.dimension).natural_key
        names = {
            "member": sql.Identifier(reference.dimension),
            "natural": sql.Identifier(natural),
            "source": sql.Identifier(reference.member_source.name),
            "table": sql.Identifier("dwh", dimension_of(reference.dimension).table),
            "key": sql.Identifier(reference.key.name),
        }
        if natural not in own:
            members.append(sql.SQL("{member}.{natural}").format(**names))
            members.append(sql.SQL("{member}.source_system as {source}").format(**names))
            joins.append(
                sql.SQL("left join {table} as {member} on held.{key} = {member}.{key}").format(**names)
            )
    return sql.SQL("select {} from {} as held {}").format(
        sql.SQL(", ").join(members), rows, sql.SQL(" ").join(joins)
    )


def dimension_of(entity: str) -> Dimension:
    """Return the dimension of this entity."""
    return next(dimension for dimension in DIMENSIONS if dimension.entity == entity)


def member_source(reference: Reference, line: str) -> sql.Composed:
    """Expression for the source system of a reference's natural key in `line`: the row's own, unless it has another."""
    return sql.SQL("coalesce({}, {})").format(
        sql.Identifier(line, reference.member_source.name), sql.Identifier(line, "source_system")
    )


def _key(reference: Reference) -> sql.Composed:
    key = reference.key.name
    return sql.SQL("coalesce({}, 0) as {}").format(
        sql.Identifier(reference.dimension, key), sql.Identifier(key)
    )


def _lacks_member(reference: Reference) -> sql.Composed:
    return sql.SQL("({} is not null and {} is null)").format(
        sql.Identifier("line", reference.natural_key.name),
        sql.Identifier(reference.dimension, reference.key.name),
    )


def _lookup(reference: Reference, event: sql.Composable, *, is_fact: bool = True) -> sql.Composed:
    """Join the version valid at the event, by the natural key in the batch, or else that in another dimension's row."""
    dimension = dimension_of(reference.dimension)
    (natural,) = dimension.natural_key
    named: sql.Composable = sql.Identifier("line", natural)
    source: sql.Composable = sql.SQL("line.source_system")
    if is_fact:
        source = member_source(reference, "line")
    if reference.through is not None:
        source = sql.SQL("case when {} is null then {}.source_system else {} end").format(
            named, sql.Identifier(reference.through), source
        )
        named = sql.SQL("coalesce({}, {})").format(named, sql.Identifier(reference.through, natural))
    is_valid = "and {event} >= {name}.valid_from and {event} < {name}.valid_to"
    return sql.SQL(
        "left join dwh.{table} as {name} on {named} = {name}.{natural} "
        "and {source} = {name}.source_system " + (is_valid if dimension.has_history else "")
    ).format(
        table=sql.Identifier(dimension.table),
        name=sql.Identifier(dimension.entity),
        named=named,
        source=source,
        natural=sql.Identifier(natural),
        event=event,
    )


def _date_key(date: DateKey, fact: Fact) -> sql.Composed:
    day = sql.SQL("to_char(mart.local_time(line.{}), 'YYYYMMDD')::integer").format(sql.Identifier(date.time))
    if date.time != fact.event_time:
        day = sql.SQL("coalesce({}, 0)").format(day)
    return sql.SQL("{} as {}").format(day, sql.Identifier(date.name))


def _each(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
