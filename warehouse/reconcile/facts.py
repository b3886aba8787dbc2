"""Facts: what their business SQL makes of the conformed lines and of the versions that were valid at each event."""

import time
from collections.abc import Iterator, Sequence
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.load import scd1, scd2
from warehouse.load.conform import batch_table
from warehouse.model.calendar import DATE
from warehouse.model.calendar_sql import expected_days
from warehouse.model.fact_sql import fact_query
from warehouse.model.star import DIMENSIONS, Fact
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import Comparison, reconcile_table
from warehouse.reconcile.verdict import MOST_TOLD, Difference, Verdict
from warehouse.sources.declaration import Entity

EXPECTED = sql.Identifier("pg_temp", "expected")


def reconcile_facts(
    connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact
) -> Iterator[Verdict]:
    """Mend a fact by its batch, and first the inferred members that it needs; a verdict on each table.

    Facts whose line waits in quarantine keep the last state that was good; of them only the keys are judged.
    """
    yield from _inferred(connection, run_id, entity, fact)
    started = time.monotonic()
    prepared = fact_query(fact)
    described = connection.execute(
        sql.SQL("select * from ({}) as prepared limit 0").format(prepared)
    ).description
    columns = [column.name for column in described or ()]
    key = (*fact.natural_key, "source_system")
    names = {
        "expected": EXPECTED,
        "fact": sql.Identifier("dwh", fact.table),
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
        "prepared": prepared,
        "waiting": waiting_table(fact.entity),
        "found_key": sql.SQL("array[{}]::text[]").format(
            sql.SQL(", ").join(sql.Identifier("found", name) for name in fact.natural_key)
        ),
        "source": sql.Literal(entity.source),
    }
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.expected;
            create temp table expected on commit drop as select {columns} from {fact} limit 0;
            insert into pg_temp.expected ({columns}) select {columns} from ({prepared}
            ) as prepared;
            """
        ).format(**names)
    )
    judged = sql.SQL("found.source_system = {source}").format(**names)
    if connection.execute(sql.SQL("select from {waiting} limit 1").format(**names)).rowcount:
        judged += sql.SQL(" and {found_key} not in (select row_key from {waiting})").format(**names)
    comparison = Comparison(
        "star",
        entity.source,
        "dwh",
        fact.table,
        EXPECTED,
        key,
        tuple(name for name in columns if name not in key),
        judged,
        {"run_id": sql.Literal(run_id)},
    )
    amounts = [
        measure.name for measure in fact.measures if measure.additive and measure.name.endswith("_amount")
    ]
    found = _sums(connection, comparison, amounts)
    verdict = reconcile_table(connection, comparison)
    expected = _sums(connection, comparison, amounts)
    yield verdict.with_amounts(found, expected).timed(started)
    yield _last_good_states(connection, run_id, entity, fact)


def reconcile_calendar(connection: psycopg.Connection, run_id: int) -> Verdict:
    """Mend the calendar: every day that it has says what a calendar says, and no day that facts need is missing."""
    started = time.monotonic()
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.expected;
            create temp table expected on commit drop as {};
            """
        ).format(expected_days())
    )
    described = connection.execute("select * from pg_temp.expected limit 0").description
    columns = tuple(column.name for column in described or ())
    comparison = Comparison(
        "star",
        "calendar",
        DATE.schema,
        DATE.name,
        EXPECTED,
        columns[:1],
        columns[1:],
        sql.SQL("found.date_key <> 0"),
        {"run_id": sql.Literal(run_id)},
    )
    return reconcile_table(connection, comparison).timed(started)


def _inferred(connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact) -> Iterator[Verdict]:
    """Give members that facts name and no dimension holds (any more) their inferred rows, as a load does."""
    for dimension in DIMENSIONS:
        if dimension.entity not in fact.references:
            continue
        started = time.monotonic()
        if dimension.has_history:
            made = scd2.infer_missing(
                connection, run_id, entity.source, dimension, batch_table(fact.entity), fact.event_time
            )
        else:
            made = scd1.infer_missing(connection, run_id, dimension, fact.entity)
        if not made:
            continue
        (natural,) = dimension.natural_key
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                sql.SQL(
                    "select {natural}, {key}::text from {dimension} where run_id = {run_id} and is_inferred "
                    "and source_system = {source} limit {limit}"
                ).format(
                    natural=sql.Identifier(natural),
                    key=sql.Identifier(dimension.key),
                    dimension=sql.Identifier("dwh", dimension.table),
                    run_id=sql.Literal(run_id),
                    source=sql.Literal(entity.source),
                    limit=sql.Literal(MOST_TOLD),
                )
            ).fetchall()
        name = f"dwh.{dimension.table}"
        yield Verdict(
            "star",
            entity.source,
            name,
            made,
            0,
            rows_differing=made,
            differences=[
                Difference("star", entity.source, name, {natural: row[natural]}, "missing", None, row)
                for row in rows
            ],
        ).timed(started)


def _last_good_states(connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact) -> Verdict:
    """Mend the keys of facts whose line waits in quarantine: each must name a version valid at the event."""
    started = time.monotonic()
    differing: list[Difference] = []
    total = 0
    has_history = {dimension.entity: dimension.has_history for dimension in DIMENSIONS}
    for name in (*fact.references, *fact.derived):
        valid: sql.Composable = sql.SQL("true")
        right: sql.Composable = sql.SQL("null::bigint")
        names = {
            "fact": sql.Identifier("dwh", fact.table),
            "dimension": sql.Identifier("dwh", f"dim_{name}"),
            "key": sql.Identifier(f"{name}_key"),
            "natural": sql.Identifier(f"{name}_id"),
            "event": sql.Identifier(fact.event_time),
            "waiting": waiting_table(fact.entity),
            "row_key": sql.SQL("array[{}]::text[]").format(
                sql.SQL(", ").join(sql.Identifier("fact", column) for column in fact.natural_key)
            ),
            "source": sql.Literal(entity.source),
            "run_id": sql.Literal(run_id),
        }
        if has_history[name]:
            valid = sql.SQL("fact.{event} >= named.valid_from and fact.{event} < named.valid_to").format(
                **names
            )
            right = sql.SQL(
                """
                (
                    select version.{key} from {dimension} as version
                    where version.{natural} = named.{natural} and version.source_system = named.source_system
                        and fact.{event} >= version.valid_from and fact.{event} < version.valid_to
                )
                """
            ).format(**names)
        rows = connection.execute(
            sql.SQL(
                """
                select fact.ctid, {row_key}, fact.{key}, {right}
                from {fact} as fact
                inner join {waiting} as waiting on waiting.row_key = {row_key}
                left join {dimension} as named on named.{key} = fact.{key}
                where fact.source_system = {source} and fact.{key} <> 0 and (named.{key} is null or not ({valid}))
                """
            ).format(**names, valid=valid, right=right)
        ).fetchall()
        for place, row_key, before, after in rows:
            if after is not None:
                connection.execute(
                    sql.SQL("update {fact} set {key} = %s, run_id = {run_id} where ctid = %s").format(
                        **names
                    ),
                    [after, place],
                )
            total += 1
            differing.append(
                Difference(
                    "star",
                    entity.source,
                    f"dwh.{fact.table}",
                    dict(zip(fact.natural_key, row_key, strict=True)),
                    "unrepairable" if after is None else "changed",
                    {f"{name}_key": str(before)},
                    {f"{name}_key": None if after is None else str(after)},
                )
            )
    row = connection.execute(
        sql.SQL(
            "select count(*) from {fact} as fact inner join {waiting} as waiting on waiting.row_key = {row_key}"
        ).format(**names)
    ).fetchone()
    assert row is not None
    return Verdict(
        "star",
        entity.source,
        f"dwh.{fact.table}",
        row[0],
        row[0],
        rows_differing=total,
        differences=differing[:MOST_TOLD],
    ).timed(started)


def _sums(
    connection: psycopg.Connection, comparison: Comparison, amounts: Sequence[str]
) -> dict[str, Decimal | None]:
    with connection.cursor(row_factory=dict_row) as cursor:
        sums = sql.SQL(", ").join(
            sql.SQL("sum({}) as {}").format(sql.Identifier("found", name), sql.Identifier(name))
            for name in amounts
        )
        row = cursor.execute(
            sql.SQL("select {sums} from {table} as found where {where}").format(sums=sums, **comparison.names)
        ).fetchone()
    return row or {}
