"""Reconcile web logs: compare the lines of files with the fact, and the aggregates with counts of the fact."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.db.identifiers import qualified, same_key
from warehouse.model.weblog_aggregates import (
    AGGREGATES,
    FACT,
    Aggregate,
    AggregateTable,
    count_rows_and_users,
    list_users,
)
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table
from warehouse.reconcile.verdict import MOST_LISTED, Difference, Problem, Verdict
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.maintenance.rederive import DIFFERING, find_differing, record_definitions, update_fact
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.storage.lookups import Lookups

SQL = Path(__file__).parent / "queries"


def reconcile_weblogs(connection: psycopg.Connection, run_id: int) -> list[Verdict]:
    """Repair lookups, fact and aggregates in the connection's transaction; missing lines are only reported."""
    verdicts = [_lines(connection), *_texts(connection, run_id)]
    # Repair the pairs from which distinct users are counted before the counts.
    for aggregate in AGGREGATES:
        if aggregate.users:
            verdicts.append(
                _aggregate(
                    connection, run_id, aggregate.users, _expected_users(aggregate), aggregate.users.measure
                )
            )
    for aggregate in AGGREGATES:
        expected = count_rows_and_users(aggregate)
        verdicts.append(_aggregate(connection, run_id, aggregate, expected, *aggregate.measures))
    return verdicts


def _texts(connection: psycopg.Connection, run_id: int) -> Iterator[Verdict]:
    """Repair texts that the rules in use describe otherwise, and requests whose keys differ from their texts' keys."""
    for dictionary in Lookups(connection, run_id, read_traffic_rules()).described:
        started = time.monotonic()
        find_differing(connection, dictionary)
        comparison = Comparison(
            "weblog",
            FEED,
            "dwh",
            dictionary.name.removeprefix("dwh."),
            DIFFERING,
            (dictionary.key,),
            tuple(dictionary.derived),
            sql.SQL("exists (select from {} as described where {})").format(
                DIFFERING, same_key((dictionary.key,), "found", "described")
            ),
        )
        verdict = reconcile_table(connection, comparison)
        (texts,) = connection.execute(
            sql.SQL("select count(*) from {}").format(dictionary.relation)
        ).fetchone() or (0,)
        yield replace(verdict, rows_expected=texts, rows_found=texts).timed(started)
    record_definitions(connection, run_id)
    started = time.monotonic()
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute((SQL / "weblog_keys.sql").read_bytes())
        listed_rows = cursor.fetchmany(MOST_LISTED)
    differences = [
        Difference("weblog", FEED, "dwh.fact_weblog", row["row_key"], "changed", row["before"], row["after"])
        for row in listed_rows
    ]
    differing = update_fact(connection)
    yield Verdict(
        "weblog", FEED, "dwh.fact_weblog", 0, 0, rows_differing=differing, differences=differences
    ).timed(started)


def _expected_users(aggregate: Aggregate) -> sql.Composable:
    assert aggregate.users is not None
    # A null last_seen_date means that a re-classification is about to recount the pair.
    return sql.SQL(
        """
        select {seen_key}, case when pair.run_id is null or pair.last_seen_date is not null then seen.last_seen_date end
            as last_seen_date
        from ({seen}) as seen left join {pairs} as pair on {same}
        """
    ).format(
        seen_key=qualified("seen", aggregate.users.key),
        seen=list_users(aggregate, FACT),
        pairs=sql.Identifier("dwh", aggregate.users.table),
        same=same_key(aggregate.users.key, "seen", "pair"),
    )


def _aggregate(
    connection: psycopg.Connection,
    run_id: int,
    table: AggregateTable,
    expected: sql.Composable,
    *measures: str,
) -> Verdict:
    started = time.monotonic()
    connection.execute("drop table if exists pg_temp.expected")
    connection.execute(sql.SQL("create temp table expected on commit drop as {}").format(expected))
    where: sql.Composable = sql.SQL("true")
    counts = [measure for measure in measures if measure.endswith("_count")]
    if counts:
        # Rows whose counts were all subtracted are kept with zeros, and need no expected row.
        where = sql.SQL("(({any}) or exists (select from pg_temp.expected as expected where {same}))").format(
            any=sql.SQL(" or ").join(
                sql.SQL("found.{} <> 0").format(sql.Identifier(name)) for name in counts
            ),
            same=same_key(table.key, "found", "expected"),
        )
    marks = {"run_id": sql.Literal(run_id)}
    comparison = Comparison("weblog", FEED, "dwh", table.table, EXPECTED, table.key, measures, where, marks)
    return reconcile_table(connection, comparison).timed(started)


def _lines(connection: psycopg.Connection) -> Verdict:
    """Check that each line of each file is once in the fact or in quarantine, and delete further copies."""
    started = time.monotonic()
    with connection.cursor(row_factory=dict_row) as cursor:
        files = cursor.execute((SQL / "weblog_file.sql").read_bytes()).fetchall()
    differences: list[Difference] = []
    differing = 0
    for file in files:
        if file["is_whole"]:
            continue
        connection.execute("select set_config('dwh.file_id', %s, true)", [str(file["file_id"])])
        for number, copies, is_wanted in connection.execute(
            (SQL / "weblog_line.sql").read_bytes()
        ).fetchall():
            differing += 1
            problem = _repair_line(connection, file["file_id"], number, copies, is_wanted)
            key = {"file_id": str(file["file_id"]), "line_number": str(number), "path": file["path"]}
            before, after = {"copies": str(copies)}, {"copies": str(int(is_wanted))}
            differences.append(Difference("weblog", FEED, "dwh.fact_weblog", key, problem, before, after))
    return Verdict(
        "weblog",
        FEED,
        "dwh.fact_weblog",
        sum(file["rows_loaded"] for file in files),
        sum(file["rows_loaded_found"] for file in files),
        rows_differing=differing,
        differences=differences,
    ).timed(started)


def _repair_line(
    connection: psycopg.Connection, file_id: int, number: int, copies: int, is_wanted: bool
) -> Problem:
    """Delete surplus copies of a line; a missing line cannot be repaired here, because only its file has it."""
    if not copies:
        return "unrepairable"
    removed = connection.execute(
        """
        with copy as (
            select tableoid, ctid, row_number() over (order by tableoid, ctid) as number from dwh.fact_weblog
            where file_id = %s and line_number = %s
        )

        delete from dwh.fact_weblog as weblog using copy
        where weblog.tableoid = copy.tableoid and weblog.ctid = copy.ctid and copy.number > %s
        """,
        [file_id, number, int(is_wanted)],
    ).rowcount
    if removed != copies - int(is_wanted):
        return "unrepairable"
    return "duplicated" if is_wanted else "extra"
