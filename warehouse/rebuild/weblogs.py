"""Rebuild web logs: load files with missing requests again from the landing folder.

Files keep their ids, discarded lines stay discarded, and requests past their retention stay removed. Files that are no
longer in the landing folder are logged.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.db.locks import session_lock
from warehouse.files.lake import NOT_READ, fingerprint
from warehouse.files.rotation import MEMBER
from warehouse.model import weblog
from warehouse.rebuild.damage import WEBLOG_AGGREGATES, WEBLOG_TABLES, WEBLOG_TEXTS, has_weblogs
from warehouse.reconcile.reconcile import reconcile_weblog_files
from warehouse.reconcile.verdict import MOST_LISTED, Difference, Verdict
from warehouse.reconcile.weblogs import SQL
from warehouse.runs.audit import Run
from warehouse.settings import Settings
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.files.landing import discover
from warehouse.weblogs.loader import load
from warehouse.weblogs.maintenance.retention import retained

FACT: Final = str(weblog.FACT)
LOCK: Final = "rebuild of web logs"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class _File:
    """A file whose lines are not all in the fact or in quarantine."""

    file_id: int
    path: str
    rows_loaded: int
    rows_found: int


def rebuild_weblogs(
    run: Run,
    settings: Settings,
    *,
    every_file: bool = False,
    wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Load files with missing lines again, or `every_file`. Returns the differences. All tables must exist.

    Each batch commits, as in a run of the web logs: if it is killed, the next rebuild continues.

    Raises:
        LockHeld: another process is still rebuilding or loading web logs after `wait_seconds`.
        GeoIpError: there is no GeoIP database.
    """
    started = time.monotonic()
    connection = run.connection
    with session_lock(connection, LOCK, wait_seconds=wait_seconds, waiting=progress):
        if not has_weblogs(connection):
            return ()
        if _has_unknown_texts(connection):
            progress("texts of web logs are gone: all requests are loaded again")
            _empty(connection, sorted(WEBLOG_TABLES))
        elif not connection.execute("select from dwh.fact_weblog limit 1").rowcount:
            _empty(connection, sorted(WEBLOG_AGGREGATES))
        expected, found, missing = _missing(connection)
        chosen = _loadable(connection, settings, None if every_file else [one.file_id for one in missing])
        with retained(settings, run, wait_seconds=wait_seconds, progress=progress):
            for paths in chosen:
                load(settings, run, restart=paths, wait_seconds=wait_seconds)
            *_, lost = _missing(connection)
            for one in lost:
                progress(
                    f"{FEED}: {one.rows_loaded - one.rows_found:,} requests of {one.path} are lost: it does not lie in "
                    "the landing folder any more, or has other content"
                )
            _give_up(connection, lost)
    lost_ids = {one.file_id for one in lost}
    verdict = Verdict(
        "weblog",
        FEED,
        FACT,
        expected,
        found,
        rows_differing=sum(abs(one.rows_loaded - one.rows_found) for one in missing),
        differences=[
            Difference(
                "weblog",
                FEED,
                FACT,
                {"file_id": str(one.file_id), "path": one.path},
                "unrepairable" if one.file_id in lost_ids else "missing",
                {"requests": str(one.rows_found)},
                {"requests": str(one.rows_loaded)},
            )
            for one in missing[:MOST_LISTED]
        ],
    ).timed(started)
    return verdict, *reconcile_weblog_files(run, repair=True, wait_seconds=wait_seconds, progress=progress)


def _missing(connection: psycopg.Connection) -> tuple[int, int, list[_File]]:
    """Return the expected and the present number of requests, and the files with missing or duplicate requests."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute((SQL / "weblog_file.sql").read_bytes()).fetchall()
    return (
        sum(row["rows_loaded"] for row in rows),
        sum(row["rows_loaded_found"] for row in rows),
        [
            _File(row["file_id"], row["path"], row["rows_loaded"], row["rows_loaded_found"])
            for row in rows
            if not row["is_whole"] and row["path"] is not None
        ],
    )


def _loadable(
    connection: psycopg.Connection, settings: Settings, file_ids: Sequence[int] | None
) -> list[list[str]]:
    """Return the paths of files in the landing folder that can be loaded: originals, then copies of them.

    Files without known parts, as after a take-over, are reset to unread, but keep their id. So are copies then: a load
    identifies copies by comparing with what is loaded.
    """
    landed = {file.path for file in discover(settings).files}
    rows = connection.execute(
        """
        select file.file_id, file.path, file.lines_duplicated > 0, file.lines_duplicated = file.line_count,
            file.line_count > file.lines_duplicated
                and not exists (select from audit.file_part as part where part.file_id = file.file_id)
        from audit.file as file where feed = %s and status <> all(%s) order by file.file_id
        """,
        [FEED, [*NOT_READ, "replaced", "archive"]],
    ).fetchall()
    rows = [row for row in rows if {row[1], row[1].partition(MEMBER)[0]} & landed]
    is_taken_over = any(is_unknown for *_, is_unknown in rows)
    forgotten = [row[0] for row in rows if row[4] or (is_taken_over and row[3])]
    connection.execute(_FORGET, {"ids": forgotten, "nothing": fingerprint(b"")})
    chosen = [row for row in rows if file_ids is None or row[0] in {*file_ids, *forgotten}]
    passes = [[path for _, path, is_copy, *_ in chosen if is_copy is wanted] for wanted in (False, True)]
    return [paths for paths in passes if paths]


def _has_unknown_texts(connection: psycopg.Connection) -> bool:
    """Whether requests refer to missing rows of the text dimensions, whose texts are therefore lost."""
    keys = {str(table): table.columns[0].name for table in WEBLOG_TEXTS}
    conditions = [
        sql.SQL(
            "not exists (select from {dimension} as text where text.{key} = weblog.{column}) "
            "and weblog.{column} is not null"
        ).format(
            dimension=sql.Identifier("dwh", column.refers_to),
            key=sql.Identifier(keys[f"dwh.{column.refers_to}"]),
            column=sql.Identifier(column.name),
        )
        for column in weblog.FACT.columns
        if column.refers_to and f"dwh.{column.refers_to}" in keys
    ]
    query = sql.SQL("select from dwh.fact_weblog as weblog where {} limit 1").format(
        sql.SQL(" or ").join(conditions)
    )
    return bool(connection.execute(query).rowcount)


def _empty(connection: psycopg.Connection, tables: Sequence[str]) -> None:
    """Truncate tables, and insert the rows of their unknown members again."""
    with connection.transaction():
        connection.execute(f"truncate {', '.join(tables)}".encode())
        for table in WEBLOG_TEXTS:
            if table.unknown and str(table) in tables:
                columns, values = ", ".join(table.unknown), ", ".join(table.unknown.values())
                connection.execute(f"insert into {table} ({columns}) values ({values})".encode())


def _give_up(connection: psycopg.Connection, lost: Sequence[_File]) -> None:
    """Count lost requests as removed, so that the row counts of their files add up."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "update audit.file set rows_removed = rows_removed + %s where file_id = %s",
            [
                (one.rows_loaded - one.rows_found, one.file_id)
                for one in lost
                if one.rows_loaded > one.rows_found
            ],
        )


_FORGET: Final = """
    update audit.file set
        status = 'partial', byte_offset = 0, head_bytes = 0, head_hash = %(nothing)s, tail_hash = %(nothing)s,
        size_bytes = -1, modified_ns = 0, line_count = 0, lines_duplicated = 0, rows_loaded = 0, rows_quarantined = 0,
        rows_discarded = 0, rows_superseded = 0, rows_removed = 0, unterminated_line_offset = null,
        header_lines = '{}', first_event_at = null, last_event_at = null
    where file_id = any(%(ids)s)
"""
