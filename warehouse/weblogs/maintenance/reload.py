"""Delete loaded lines so that they are read again: an incomplete last line that has been continued, restarted files."""

from datetime import UTC, date, datetime

import psycopg
from psycopg import sql

from warehouse.db.locks import transaction_lock
from warehouse.files.content import ContentReader
from warehouse.files.lake import line_end
from warehouse.runs.audit import mark_irreversible
from warehouse.runs.discard import discard
from warehouse.weblogs.files.checkpoints import FEED, PUBLISHED, FileProgress, save
from warehouse.weblogs.maintenance.delete_rows import delete_rows


def reopen_last_line(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Continue a file whose last line had no end: skip the line end that has come, or delete the line to read it again.

    The deletion commits by itself (`connection` is in autocommit): the file is then loaded up to that line.
    """
    if progress.unterminated_line_offset is None:
        return
    with ContentReader(progress.file.location) as content:
        content.skip_to(progress.byte_offset)
        after = content.read(2)
    if not after:
        return
    end = line_end(after)
    progress.tail = None
    if end:
        progress.byte_offset += end
        progress.unterminated_line_offset = None
        return
    if progress.line_count == progress.lines_duplicated:
        # The line belongs to the file of which this one is a copy, and stays there; it has changed only in this file.
        progress.line_count -= 1
        progress.lines_duplicated -= 1
        progress.byte_offset, progress.unterminated_line_offset = progress.unterminated_line_offset, None
        return
    with connection.transaction():
        transaction_lock(connection, PUBLISHED)
        line, offset = progress.line_count, progress.unterminated_line_offset
        waiting, discarded = connection.execute(
            """
            with last as (
                select quarantine_id, resolution from audit.quarantine
                where file_id = %s and line_number = %s and (resolved_at is null or resolution = 'discarded')
            ),

            replaced as (
                update audit.quarantine as entry
                set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'replaced'
                from last where entry.quarantine_id = last.quarantine_id
            )

            select count(*) filter (where resolution is null), count(resolution) from last
            """,
            [progress.file_id, line, run_id],
        ).fetchone() or (0, 0)
        loaded = 1 - waiting - discarded
        if loaded and delete_lines(connection, progress.file_id, run_id, first_line=line) == 0:
            # Retention has deleted the row already.
            connection.execute(
                "update audit.file set rows_removed = rows_removed - 1 where file_id = %s", [progress.file_id]
            )
        # Do not mark the changes with the run: an undo of it does not bring the line back.
        connection.execute("select set_config('dwh.run_id', '', true)")
        connection.execute(
            """
            update audit.file_part
            set line_count = line_count - 1, byte_count = %(offset)s - byte_offset, content_crc32 = null,
                rows_quarantined = rows_quarantined - %(waiting)s, rows_discarded = rows_discarded - %(discarded)s,
                rows_loaded = rows_loaded - %(loaded)s
            where file_id = %(file_id)s and first_line + line_count - 1 = %(line)s
            """,
            {
                "offset": offset,
                "waiting": waiting,
                "discarded": discarded,
                "loaded": loaded,
                "file_id": progress.file_id,
                "line": line,
            },
        )
        connection.execute(
            "delete from audit.file_part where file_id = %s and line_count = 0", [progress.file_id]
        )
        progress.line_count -= 1
        progress.rows_quarantined -= waiting
        progress.rows_discarded -= discarded
        progress.rows_loaded -= loaded
        progress.byte_offset = offset
        progress.unterminated_line_offset = None
        save(connection, progress, run_id)


def restart_file(connection: psycopg.Connection, progress: FileProgress) -> None:
    """Go back to the beginning of the file; what is loaded of it stays until the batch commits (`replace_lines`)."""
    row = connection.execute(
        "select min(byte_offset), min(first_line) from audit.file_part where file_id = %s", [progress.file_id]
    ).fetchone()
    progress.is_restarted = progress.is_reread = True
    if row is None or row[0] is None:
        return
    # A copy of another file begins where that one ends.
    progress.byte_offset, progress.line_count = row[0], row[1] - 1
    progress.lines_duplicated = progress.line_count
    progress.rows_loaded = progress.rows_quarantined = progress.rows_discarded = 0
    progress.header_lines = []
    progress.unterminated_line_offset = progress.first_seconds = progress.last_seconds = None
    progress.head = progress.tail = None if progress.byte_offset else b""


def replace_lines(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Delete what earlier transactions loaded of a file; this transaction loads it again."""
    delete_lines(connection, progress.file_id, run_id)
    connection.execute("delete from audit.file_part where file_id = %s", [progress.file_id])
    connection.execute("update audit.file set rows_removed = 0 where file_id = %s", [progress.file_id])
    # Entries that this transaction has added stay. Discarded lines were read again, too: see `discard_again`.
    connection.execute(
        """
        update audit.quarantine set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'replaced'
        where file_id = %s and (resolved_at is null or resolution = 'discarded') and xmin <> pg_current_xact_id()::xid
        """,
        [run_id, progress.file_id],
    )


def discard_again(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Discard again the lines that had been discarded before the file was read again, and that are still rejected.

    Call it after the batch's entries and counts are written.
    """
    discarded = connection.execute(
        """
        select former.note, array_agg(entry.quarantine_id)
        from audit.quarantine as entry
        cross join lateral (
            select earlier.note from audit.quarantine as earlier
            where earlier.file_id = entry.file_id and earlier.line_number = entry.line_number
                and earlier.raw_text = entry.raw_text and earlier.note is not null
                and earlier.quarantine_id < entry.quarantine_id
            order by earlier.quarantine_id desc limit 1
        ) as former
        where entry.file_id = %s and entry.resolved_at is null and entry.xmin = pg_current_xact_id()::xid
        group by former.note
        """,
        [progress.file_id],
    ).fetchall()
    for note, ids in discarded:
        count = discard(connection, run_id, ids, note)
        progress.rows_quarantined -= count
        progress.rows_discarded += count


def supersede(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Delete rows of other content that the file's path had before, on the days that the file covers now.

    The quarantined lines of that content stay, since their days are not known.
    """
    if progress.first_seconds is None or progress.last_seconds is None or progress.lines_duplicated:
        # The first lines of a copy belong to another file, which may be the content that its path had before.
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
        deleted = delete_lines(connection, file_id, run_id, first_date=first, last_date=last)
        connection.execute(
            "update audit.file set rows_removed = rows_removed + %s where file_id = %s", [deleted, file_id]
        )


def delete_lines(
    connection: psycopg.Connection,
    file_id: int,
    run_id: int,
    *,
    first_line: int = 1,
    first_date: date | None = None,
    last_date: date | None = None,
) -> int:
    """Delete a file's rows from `first_line` on that earlier transactions loaded; returns their number.

    With dates, only rows of these days (UTC). The caller holds the lock `PUBLISHED`.
    """
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
    # The condition on xmin keeps the rows that this transaction has loaded in their place.
    condition = "file_id = {} and line_number >= {} and xmin <> pg_current_xact_id()::xid"
    days: list[date] = []
    if first_date is not None and last_date is not None:
        condition += " and (requested_at at time zone 'UTC')::date between {} and {}"
        days = [first_date, last_date]
    values = [sql.Literal(value) for value in (file_id, first_line, *days)]
    deleted = delete_rows(connection, sql.SQL(condition).format(*values))
    # Deleted content is not kept anywhere, so an undo cannot restore it. A single last line is read again in any case.
    if deleted and first_line == 1:
        mark_irreversible(connection, run_id)
    return deleted
