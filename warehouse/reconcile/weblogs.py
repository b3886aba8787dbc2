"""Web logs: what each file says was loaded, the fact, and what is counted of it."""

import time
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.db.identifiers import same_key
from warehouse.reconcile.compare import Comparison, reconcile_table
from warehouse.reconcile.verdict import Difference, Problem, Verdict
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.storage.aggregates import TARGETS

SQL = Path(__file__).parent / "queries"
# The pairs that users are counted from, before the counts.
TABLES = ("agg_weblog_country_user", "agg_weblog_device_user", *TARGETS)
EXPECTED = sql.Identifier("pg_temp", "expected")


def reconcile_weblogs(connection: psycopg.Connection, run_id: int) -> list[Verdict]:
    """Mend the aggregates by the fact, in the connection's transaction; lines that are amiss are told."""
    return [_lines(connection), *(_aggregate(connection, run_id, name) for name in TABLES)]


def _aggregate(connection: psycopg.Connection, run_id: int, name: str) -> Verdict:
    started = time.monotonic()
    connection.execute("drop table if exists pg_temp.expected")
    connection.execute(
        sql.SQL("create temp table expected on commit drop as {}").format(
            sql.SQL((SQL / f"{name}.sql").read_text().strip().rstrip(";"))
        )
    )
    described = connection.execute("select * from pg_temp.expected limit 0").description
    columns = tuple(column.name for column in described or ())
    counted = tuple(column for column in columns if column.endswith("_count"))
    seen = tuple(column for column in columns if column == "last_seen_date")
    key = tuple(column for column in columns if column not in counted + seen)
    where: sql.Composable = sql.SQL("true")
    if counted:
        # What was counted and taken back stays, with zeros.
        where = sql.SQL("(({any}) or exists (select from pg_temp.expected as expected where {same}))").format(
            any=sql.SQL(" or ").join(sql.SQL("found.{} <> 0").format(sql.Identifier(c)) for c in counted),
            same=same_key(key, "found", "expected"),
        )
    marks = {"run_id": sql.Literal(run_id)}
    comparison = Comparison("weblog", FEED, "dwh", name, EXPECTED, key, counted + seen, where, marks)
    return reconcile_table(connection, comparison).timed(started)


def _lines(connection: psycopg.Connection) -> Verdict:
    """Whether each line of each file is there once, in the fact or in quarantine; copies too many are removed."""
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
            problem = _mend_line(connection, file["file_id"], number, copies, is_wanted)
            key = {"file_id": str(file["file_id"]), "line_number": str(number), "path": file["path"]}
            said = {"copies": str(copies)}, {"copies": str(int(is_wanted))}
            differences.append(Difference("weblog", FEED, "dwh.fact_weblog", key, problem, *said))
    return Verdict(
        "weblog",
        FEED,
        "dwh.fact_weblog",
        sum(file["rows_loaded"] for file in files),
        sum(file["rows_loaded_found"] for file in files),
        rows_differing=differing,
        differences=differences,
    ).timed(started)


def _mend_line(
    connection: psycopg.Connection, file_id: int, number: int, copies: int, is_wanted: bool
) -> Problem:
    """Remove what is too much of a line; one that is missing is in its file alone."""
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
