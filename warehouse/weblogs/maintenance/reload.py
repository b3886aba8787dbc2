"""Lines taken back: a last line that was loaded before its end came, and files that are loaded anew."""

from datetime import UTC, date, datetime

import psycopg
from psycopg import sql

from warehouse.db.locks import transaction_lock
from warehouse.files.gzip_reader import ContentReader
from warehouse.files.lake import line_end
from warehouse.runs.audit import mark_irreversible
from warehouse.weblogs.files.checkpoints import FEED, PUBLISHED, FileProgress, save
from warehouse.weblogs.maintenance.delete_rows import remove


def reopen_last_line(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Go on in a file whose last line had no end: step over the end that has come, or take the line back whole.

    That commits by itself, as `connection` does: the file is loaded up to the line then, and the line is read again.
    """
    if progress.unterminated_line_offset is None:
        return
    with ContentReader(progress.file.location) as content:
        content.skip_to(progress.byte_offset)
        after = content.read(2)
    if not after:
        return
    end = line_end(after)
    # What was read of the file's end is no longer its end.
    progress.tail = None
    if end:
        progress.byte_offset += end
        progress.unterminated_line_offset = None
        return
    if progress.line_count == progress.lines_duplicated:
        # There it stays; here it is another line now.
        progress.line_count -= 1
        progress.lines_duplicated -= 1
        progress.byte_offset, progress.unterminated_line_offset = progress.unterminated_line_offset, None
        return
    with connection.transaction():
        transaction_lock(connection, PUBLISHED)
        line, offset = progress.line_count, progress.unterminated_line_offset
        waiting = connection.execute(
            """
            update audit.quarantine set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'replaced'
            where file_id = %s and line_number = %s and resolved_at is null
            """,
            [run_id, progress.file_id, line],
        ).rowcount
        if not waiting and take_back(connection, progress.file_id, run_id, first_line=line) == 0:
            # Retention was there first.
            connection.execute(
                "update audit.file set rows_removed = rows_removed - 1 where file_id = %s", [progress.file_id]
            )
        # The line stays taken back, also if this run is undone.
        connection.execute("select set_config('dwh.run_id', '', true)")
        connection.execute(
            """
            update audit.file_part
            set line_count = line_count - 1, byte_count = %(offset)s - byte_offset,
                rows_quarantined = rows_quarantined - %(waiting)s, rows_loaded = rows_loaded - 1 + %(waiting)s
            where file_id = %(file_id)s and first_line + line_count - 1 = %(line)s
            """,
            {"offset": offset, "waiting": waiting, "file_id": progress.file_id, "line": line},
        )
        connection.execute(
            "delete from audit.file_part where file_id = %s and line_count = 0", [progress.file_id]
        )
        progress.line_count -= 1
        progress.rows_quarantined -= waiting
        progress.rows_loaded -= 1 - waiting
        progress.byte_offset = offset
        progress.unterminated_line_offset = None
        save(connection, progress, run_id)


def begin_anew(connection: psycopg.Connection, progress: FileProgress) -> None:
    """Go back to where the file begins; what is loaded of it stays until the batch commits (`replace_lines`)."""
    row = connection.execute(
        "select min(byte_offset), min(first_line) from audit.file_part where file_id = %s", [progress.file_id]
    ).fetchone()
    progress.is_anew = True
    if row is None or row[0] is None:
        return
    # A copy of another file begins where that one ends.
    progress.byte_offset, progress.line_count = row[0], row[1] - 1
    progress.lines_duplicated = progress.line_count
    progress.rows_loaded = progress.rows_quarantined = 0
    progress.unterminated_line_offset = progress.first_seconds = progress.last_seconds = None
    progress.head = progress.tail = None if progress.byte_offset else b""


def replace_lines(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Take back what was loaded of a file before this transaction, which loads it anew."""
    take_back(connection, progress.file_id, run_id)
    connection.execute("delete from audit.file_part where file_id = %s", [progress.file_id])
    connection.execute("update audit.file set rows_removed = 0 where file_id = %s", [progress.file_id])
    _resolve(connection, progress.file_id, run_id)


def supersede(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Take back other content that the path of a file had before, on the days that the file tells of now."""
    if progress.first_seconds is None or progress.last_seconds is None or progress.lines_duplicated:
        # What a copy does not load again may be what its path had before.
        return
    first, last = (
        datetime.fromtimestamp(seconds, UTC).date()
        for seconds in (progress.first_seconds, progress.last_seconds)
    )
    former = connection.execute(
        """
        select file_id from audit.file
        where feed = %s and path = %s and status = 'replaced' and file_id <> %s and rows_loaded > rows_removed
            and first_event_at < %s::date + interval '1 day' and last_event_at >= %s::date
        """,
        [FEED, progress.file.path, progress.file_id, last, first],
    ).fetchall()
    for (file_id,) in former:
        taken = take_back(connection, file_id, run_id, first_date=first, last_date=last)
        row = connection.execute(
            """
            update audit.file set rows_removed = rows_removed + %s where file_id = %s
            returning rows_loaded - rows_removed
            """,
            [taken, file_id],
        ).fetchone()
        if row == (0,):
            _resolve(connection, file_id, run_id)


def take_back(
    connection: psycopg.Connection,
    file_id: int,
    run_id: int,
    *,
    first_line: int = 1,
    first_date: date | None = None,
    last_date: date | None = None,
) -> int:
    """Remove a file's lines from `first_line` on that earlier transactions loaded, and what they counted for; how many.

    With dates only the lines of these days (UTC). The caller holds the lock `PUBLISHED`.
    """
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
    # Not what this transaction has loaded in their place.
    which = "file_id = {} and line_number >= {} and xmin <> pg_current_xact_id()::xid"
    days: list[date] = []
    if first_date is not None and last_date is not None:
        which += " and (requested_at at time zone 'UTC')::date between {} and {}"
        days = [first_date, last_date]
    values = [sql.Literal(value) for value in (file_id, first_line, *days)]
    removed = remove(connection, sql.SQL(which).format(*values))
    # What is replaced is nowhere kept; a last line alone is read again, whatever becomes of this run.
    if removed and first_line == 1:
        mark_irreversible(connection, run_id)
    return removed


def _resolve(connection: psycopg.Connection, file_id: int, run_id: int) -> None:
    """What of the file waits in quarantine was replaced; not what this transaction has put there."""
    connection.execute(
        """
        update audit.quarantine set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'replaced'
        where file_id = %s and resolved_at is null and xmin <> pg_current_xact_id()::xid
        """,
        [run_id, file_id],
    )
