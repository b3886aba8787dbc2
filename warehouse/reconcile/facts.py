"""Reconcile facts, recomputed from conformed rows and the versions valid at each event, and the calendar."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.db.identifiers import cast_to, each, same_row_key, text_array
from warehouse.extract.catalog import columns_of
from warehouse.load.batch import Batch
from warehouse.load.facts import infer_missing
from warehouse.load.last_good_states import restore_last_good_states
from warehouse.load.precedence import displace_lower
from warehouse.model.calendar import DATE
from warehouse.model.calendar_sql import expected_days
from warehouse.model.fact_sql import fact_query
from warehouse.model.star import DIMENSIONS, Dimension, Fact
from warehouse.reconcile.accounting import waiting_table
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table, without_indexes
from warehouse.reconcile.verdict import MOST_LISTED, Difference, Verdict


def reconcile_facts(batch: Batch, fact: Fact) -> Iterator[Verdict]:
    """Repair a fact from its batch, after inserting the inferred members that it needs; yields a verdict per table.

    Facts whose row is in quarantine keep their last good state; only their dimension keys are compared.
    """
    yield from inferred_members(batch, infer_missing(batch, fact))
    started = time.monotonic()
    description = batch.execute(
        "select * from ({query}) as prepared limit 0", query=fact_query(fact)
    ).description
    columns = [column.name for column in description or ()]
    key = (*fact.natural_key, "source_system")
    types = columns_of(batch.connection, "dwh", fact.table)
    names = {"query": fact_query(fact), "waiting": waiting_table(fact.entity)}
    batch.execute(
        """
        drop table if exists pg_temp.expected;
        create temp table expected on commit drop as select {values} from ({query}) as prepared;
        """,
        **names,
        values=cast_to({name: types[name] for name in columns}),
    )
    where = "found.source_system = {source}"
    if batch.exists("select from {waiting}", **names):
        where += " and {found_key} not in (select row_key from {waiting})"
    comparison = Comparison(
        "star",
        batch.source,
        "dwh",
        fact.table,
        EXPECTED,
        key,
        tuple(name for name in columns if name not in key),
        batch.format(where, **names, found_key=text_array(fact.natural_key, "found")),
        {"run_id": sql.Literal(batch.run_id)},
    )
    amounts = [
        measure.name for measure in fact.measures if measure.additive and measure.name.endswith("_amount")
    ]
    found = _sums(batch, amounts)
    verdict = reconcile_table(batch.connection, comparison)
    restored = restore_last_good_states(batch, fact)
    expected = _sums(batch, amounts)
    # The repair may have inserted events that lower-precedence sources have, too: delete their rows.
    displaced = displace_lower(batch)
    verdict = replace(
        verdict,
        rows_differing=verdict.rows_differing + restored + displaced,
        rows_repaired=verdict.rows_repaired + restored + displaced,
        differences=[*verdict.differences, *_restored(batch, fact)][:MOST_LISTED],
    )
    yield verdict.with_amounts(found, expected).timed(started)
    yield _last_good_states(batch, fact)


def reconcile_calendar(connection: psycopg.Connection, run_id: int) -> Verdict:
    """Repair the calendar: attributes of its days, and missing days that facts refer to."""
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


def inferred_members(batch: Batch, inferred: Mapping[Dimension, int]) -> Iterator[Verdict]:
    """Yield verdicts on members that facts refer to and that were missing, so that they were inferred, as in a load."""
    started = time.monotonic()
    for dimension, inserted in inferred.items():
        if not inserted:
            continue
        (natural,) = dimension.natural_key
        with batch.connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                batch.format(
                    "select {natural}, {key}::text from {dimension} where run_id = {run_id} and is_inferred "
                    "and source_system = {source} limit {limit}",
                    natural=sql.Identifier(natural),
                    key=sql.Identifier(dimension.key),
                    dimension=sql.Identifier("dwh", dimension.table),
                    limit=sql.Literal(MOST_LISTED),
                )
            ).fetchall()
        name = f"dwh.{dimension.table}"
        yield Verdict(
            "star",
            batch.source,
            name,
            inserted,
            0,
            rows_differing=inserted,
            differences=[
                Difference("star", batch.source, name, {natural: row[natural]}, "missing", None, row)
                for row in rows
            ],
        ).timed(started)


def _restored(batch: Batch, fact: Fact) -> Iterator[Difference]:
    """Yield those of `restore_last_good_states` as differences."""
    rows = batch.execute(
        "select row_key, published_row from pg_temp.restored_facts order by row_key limit {limit}",
        limit=sql.Literal(MOST_LISTED),
    ).fetchall()
    for row_key, row in rows:
        key = dict(zip(fact.natural_key, row_key, strict=True))
        yield Difference("star", batch.source, f"dwh.{fact.table}", key, "missing", None, row)


def _last_good_states(batch: Batch, fact: Fact) -> Verdict:
    """Repair the keys of facts whose row is in quarantine: each must refer to a version valid at the event."""
    started = time.monotonic()
    # Rows that this run has written, such as all rows of a fact that was empty, are right.
    if not batch.exists("select from {waiting}", waiting=waiting_table(fact.entity)) or not batch.exists(
        "select from {target} where source_system = {source} and run_id <> {run_id}"
    ):
        return Verdict("star", batch.source, f"dwh.{fact.table}", 0, 0)
    differing: list[Difference] = []
    total = 0
    with_history = {dimension.entity for dimension in DIMENSIONS if dimension.has_history}
    with without_indexes(batch.connection):
        held = batch.create_temporary(
            "held",
            """
            select fact.ctid as "<place>", row_key as "<row key>", fact.*
            from (select distinct row_key from {waiting}) as waiting
            inner join {target} as fact on {same} and fact.source_system = {source}
            """,
            waiting=waiting_table(fact.entity),
            same=same_row_key(fact.natural_key, "fact", "waiting"),
        )
    # An update changes a row's ctid: map the old ctid to the new one.
    moved: dict[str, str] = {}
    for name in (*fact.references, *fact.derived):
        names = {
            "event": sql.Identifier(fact.event_time),
            "dimension": sql.Identifier("dwh", f"dim_{name}"),
            "key": sql.Identifier(f"{name}_key"),
            "natural": sql.Identifier(f"{name}_id"),
        }
        valid, right = (_VALID, _RIGHT_KEY) if name in with_history else ("true", "null::bigint")
        rows = batch.execute(
            f"""
            select fact."<place>", fact."<row key>", fact.{{key}}, {right}
            from pg_temp.held as fact left join {{dimension}} as named on named.{{key}} = fact.{{key}}
            where fact.{{key}} <> 0 and (named.{{key}} is null or not ({valid}))
            """,
            **names,
        ).fetchall()
        for place, row_key, before, after in rows:
            if after is not None:
                (moved[place],) = batch.connection.execute(
                    batch.format(
                        "update {target} set {key} = %s, run_id = {run_id} where ctid = %s returning ctid",
                        **names,
                    ),
                    [after, moved.get(place, place)],
                ).fetchone() or (place,)
            total += 1
            differing.append(
                Difference(
                    "star",
                    batch.source,
                    f"dwh.{fact.table}",
                    dict(zip(fact.natural_key, row_key, strict=True)),
                    "unrepairable" if after is None else "changed",
                    {f"{name}_key": str(before)},
                    {f"{name}_key": None if after is None else str(after)},
                )
            )
    return Verdict(
        "star",
        batch.source,
        f"dwh.{fact.table}",
        held,
        held,
        rows_differing=total,
        differences=differing[:MOST_LISTED],
    ).timed(started)


_VALID = "fact.{event} >= named.valid_from and fact.{event} < named.valid_to"
_RIGHT_KEY = """
    (
        select version.{key} from {dimension} as version
        where version.{natural} = named.{natural} and version.source_system = named.source_system
            and fact.{event} >= version.valid_from and fact.{event} < version.valid_to
    )
"""


def _sums(batch: Batch, amounts: Sequence[str]) -> dict[str, Decimal | None]:
    """Sum amounts of the source's facts, including quarantined ones: a temporary table of these would prevent parallel
    workers."""
    with batch.connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            batch.format(
                "select {sums} from {target} where source_system = {source}",
                sums=each("sum({0}) as {0}", amounts),
            )
        ).fetchone()
    return row or {}
