"""Progress through the files of a batch, and its rows in audit.file and audit.file_part."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import polars as pl
import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.files.lake import FINGERPRINT_BYTES, Checkpoint, FileTask, LakeFile, edges, fingerprint
from warehouse.files.same_content import ContentPart
from warehouse.weblogs.files.blocks import Block
from warehouse.weblogs.storage.aggregates import copy_frame
from warehouse.weblogs.storage.writer import copy_rows

FEED = "weblogs"
# Transaction lock of all that change the aggregates.
PUBLISHED = "marts of web logs"
RULES = (
    "malformed_line", "other_format", "impossible_date", "bad_status", "bad_address", "unfinished_line",
)  # fmt: skip
# Size of a part of a file: small enough that a line is found quickly, large enough that there are few.
PART_BYTES = 64 << 20
_PART = (
    "file_id", "first_line", "line_count", "byte_offset", "byte_count", "rows_loaded", "rows_quarantined",
    "header_line_count", "content_crc32", "run_id",
)  # fmt: skip


@dataclass
class Part:
    """A part of a file, as a row of audit.file_part."""

    first_line: int
    byte_offset: int
    line_count: int = 0
    byte_count: int = 0
    rows_loaded: int = 0
    rows_quarantined: int = 0
    header_line_count: int = 0
    # None if not all of it was in memory.
    content_crc32: int | None = 0


@dataclass
class FileProgress:
    """A file that is being loaded: how far, and what this batch has read of it."""

    file: LakeFile
    file_id: int
    byte_offset: int
    line_count: int
    lines_duplicated: int
    rows_loaded: int
    rows_quarantined: int
    unterminated_line_offset: int | None
    message: str | None
    is_copy: bool
    # First and last bytes of what is loaded, by which the file is recognized; None if this load has not read them.
    head: bytes | None
    tail: bytes | None
    is_done: bool = False
    fault: str | None = None
    # Whether any line has a user agent: then a last line without one is cut off.
    has_combined: bool = False
    # Times of its earliest and latest row, in seconds since 1970: the file covers the days between them.
    first_seconds: int | None = None
    last_seconds: int | None = None
    # Whether it is an archive: its files have progress of their own.
    is_archive: bool = False
    # Numbers of its header lines, which say how later lines are read; and the format of the file.
    header_lines: list[int] = field(default_factory=list)
    format: str | None = None
    # Lines that somebody has discarded from the quarantine.
    rows_discarded: int = 0
    # Whether its rows of earlier loads are deleted when this batch commits.
    is_restarted: bool = False
    # Whether this run reads it again: in this batch or in an earlier one.
    is_reread: bool = False
    parts: list[Part] = field(default_factory=list)
    broken_rules: Counter[str] = field(default_factory=Counter)
    # Rows of this batch that are dated more than a day in the future.
    future_line_count: int = 0

    def advance(
        self, block: Block, line_count: int, rows_quarantined: int, discarded: Sequence[int] = ()
    ) -> None:
        """Count a block that was read; `discarded` are the positions of header lines in it."""
        byte_count = block.byte_count
        if self.head is not None and len(self.head) < FINGERPRINT_BYTES:
            missing = min(byte_count, FINGERPRINT_BYTES - len(self.head))
            self.head += block.buffer[:missing].tobytes()
        if block.is_oversized:
            # Its end is not in the buffer.
            self.tail = None
        elif self.tail is not None or byte_count >= FINGERPRINT_BYTES:
            end = block.buffer[max(byte_count - FINGERPRINT_BYTES, 0) : byte_count].tobytes()
            self.tail = ((self.tail or b"") + end)[-FINGERPRINT_BYTES:]
        if not self.parts or self.parts[-1].byte_count >= PART_BYTES:
            self.parts.append(Part(self.line_count + 1, self.byte_offset))
        part = self.parts[-1]
        self.header_lines += [self.line_count + 1 + place for place in discarded]
        part.header_line_count += len(discarded)
        for target in (self, part):
            target.line_count += line_count
            target.rows_quarantined += rows_quarantined
            target.rows_loaded += line_count - rows_quarantined - len(discarded)
        part.byte_count += byte_count
        if block.is_oversized:
            part.content_crc32 = None
        elif part.content_crc32 is not None:
            part.content_crc32 = zlib.crc32(block.buffer[:byte_count].data, part.content_crc32)
        self.byte_offset += byte_count

    def extend_times(self, first_seconds: int, last_seconds: int) -> None:
        """Extend the time span of the file's rows."""
        times = [self.first_seconds, self.last_seconds, first_seconds, last_seconds]
        self.first_seconds = min(seconds for seconds in times if seconds is not None)
        self.last_seconds = max(seconds for seconds in times if seconds is not None)

    def counts(self) -> Part:
        """Sum up what this batch has read of the file, as one part."""
        total = Part(self.line_count, self.byte_offset)
        for part in self.parts:
            total.line_count += part.line_count
            total.rows_loaded += part.rows_loaded
            total.rows_quarantined += part.rows_quarantined
            total.header_line_count += part.header_line_count
        return total

    @property
    def status(self) -> str:
        """Status of the file for audit.file."""
        if not self.is_done:
            return "partial"
        if self.fault:
            return "truncated"
        return "archive" if self.is_archive else "copy" if self.is_copy else "loaded"


def register(reader: psycopg.Connection, task: FileTask, run_id: int) -> FileProgress:
    """Return the file's progress so far. A new file gets its row in audit.file at once, with nothing loaded.

    So the file keeps its file_id if the load dies and is run again.
    """
    file, file_id = task.file, existing_file_id(task)
    if file_id is None:
        with reader.transaction():
            reader.execute(
                "update audit.file set status = 'replaced' where feed = %s and path = %s and status <> 'replaced'",
                [FEED, file.path],
            )
            row = reader.execute(
                """
                insert into audit.file (
                    feed, path, head_bytes, head_hash, tail_hash, size_bytes, modified_ns, byte_offset, line_count,
                    rows_loaded, rows_quarantined, status, run_id
                )
                values (%s, %s, 0, %s, %s, -1, 0, 0, 0, 0, 0, 'partial', %s) returning file_id
                """,
                [FEED, file.path, fingerprint(b""), fingerprint(b""), run_id],
            ).fetchone()
            assert row is not None
            (file_id,) = row
    return progress_of(task, file_id)


def existing_file_id(task: FileTask) -> int | None:
    """Return the file_id that the file keeps; None if it gets a new one."""
    known = task.checkpoint or task.former
    return None if known is None or (known is task.former and known.has_lines) else known.file_id


def progress_under_former_id(task: FileTask) -> FileProgress | None:
    """Return the progress under the file's former id, if it continues under a new one.

    The last line that was loaded under the former id may still need its end.
    """
    if task.former is None or not task.former.has_lines:
        return None
    return progress_of(FileTask(task.file, "grown", task.former), task.former.file_id)


def progress_of(task: FileTask, file_id: int) -> FileProgress:
    """Return the file's progress so far, from its checkpoint."""
    file, known = task.file, task.checkpoint
    if known is None:
        return FileProgress(
            file=file,
            file_id=file_id,
            byte_offset=task.skip_bytes,
            line_count=task.skip_lines,
            lines_duplicated=task.skip_lines,
            rows_loaded=0,
            rows_quarantined=0,
            unterminated_line_offset=task.skip_unterminated_line,
            message=task.message,
            is_copy=task.state == "copy",
            is_archive=task.is_archive,
            fault=task.fault,
            head=None if task.skip_bytes else b"",
            tail=None if task.skip_bytes else b"",
        )
    return FileProgress(
        file=file,
        file_id=file_id,
        byte_offset=known.byte_offset,
        line_count=known.line_count,
        lines_duplicated=known.lines_duplicated,
        rows_loaded=known.rows_loaded,
        rows_quarantined=known.rows_quarantined,
        unterminated_line_offset=known.unterminated_line_offset,
        message=task.message
        or (known.message if known.lines_duplicated or known.status == "partial" else None),
        is_copy=known.lines_duplicated > 0,
        is_archive=task.is_archive,
        fault=task.fault,
        head=None if known.byte_offset else b"",
        tail=None if known.byte_offset else b"",
        first_seconds=_seconds(known.first_event_at),
        last_seconds=_seconds(known.last_event_at),
        header_lines=list(known.header_lines),
        format=known.format,
        rows_discarded=known.rows_discarded,
    )


def checkpoint_of(progress: FileProgress) -> Checkpoint:
    """Make the checkpoint of a file, with the fingerprints by which the next load recognizes it."""
    size = min(FINGERPRINT_BYTES, progress.byte_offset)
    head, tail = progress.head, progress.tail
    if tail is None:
        head, tail = edges(progress.file.location, progress.byte_offset)
    elif head is None:
        head, _ = edges(progress.file.location, size)
    # Keep them for the commit: by then an unpacked file of an archive is gone.
    progress.head, progress.tail = head[:size], tail[-size:] if size else b""
    return Checkpoint(
        file_id=progress.file_id,
        path=progress.file.path,
        head_bytes=size,
        head_hash=fingerprint(progress.head),
        tail_hash=fingerprint(progress.tail),
        size_bytes=progress.file.size_bytes,
        modified_ns=progress.file.modified_ns,
        byte_offset=progress.byte_offset,
        line_count=progress.line_count,
        lines_duplicated=progress.lines_duplicated,
        rows_loaded=progress.rows_loaded,
        rows_quarantined=progress.rows_quarantined,
        unterminated_line_offset=progress.unterminated_line_offset,
        status=progress.status,
        message=progress.fault or progress.message,
        first_event_at=_moment(progress.first_seconds),
        last_event_at=_moment(progress.last_seconds),
        inode=progress.file.inode,
        header_lines=progress.header_lines,
        format=progress.format,
        rows_discarded=progress.rows_discarded,
    )


def save(connection: psycopg.Connection, progress: FileProgress, run_id: int) -> None:
    """Write the checkpoint of a file and its parts, in the connection's transaction."""
    checkpoint = checkpoint_of(progress)
    values = {**vars(checkpoint), "run_id": run_id}
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name))
        for name in values
        if name != "file_id"
    )
    # Another file may still be recorded under this path.
    connection.execute(
        """
        update audit.file set status = 'replaced'
        where feed = %s and path = %s and file_id <> %s and status <> 'replaced'
        """,
        [FEED, checkpoint.path, checkpoint.file_id],
    )
    connection.execute(
        sql.SQL("update audit.file set {}, loaded_at = clock_timestamp() where file_id = %(file_id)s").format(
            assignments
        ),
        values,
    )
    parts = [
        (
            progress.file_id, part.first_line, part.line_count, part.byte_offset, part.byte_count,
            part.rows_loaded, part.rows_quarantined, part.header_line_count, part.content_crc32, run_id,
        )
        for part in progress.parts
    ]  # fmt: skip
    copy_rows(connection, sql.Identifier("audit", "file_part"), _PART, parts)


def read_parts(connection: psycopg.Connection, file_id: int) -> list[ContentPart]:
    """Read offset, size and checksum of the loaded parts of a file, from its beginning on."""
    with connection.cursor(row_factory=class_row(ContentPart)) as cursor:
        return cursor.execute(
            """
            select byte_offset, byte_count, content_crc32 from audit.file_part
            where file_id = %s order by byte_offset
            """,
            [file_id],
        ).fetchall()


def stage_counts(connection: psycopg.Connection, batch: Sequence[FileProgress]) -> None:
    """Fill staging.weblog_file with the counts of a batch's files, for the contract."""
    table = sql.Identifier("staging", "weblog_file")
    connection.execute(sql.SQL("truncate {}").format(table))
    rows = [
        {
            "file_id": progress.file_id,
            "path": progress.file.path,
            "line_count": progress.counts().line_count,
            "rows_loaded": progress.counts().rows_loaded,
            "rows_quarantined": progress.counts().rows_quarantined,
            "header_line_count": progress.counts().header_line_count,
            "future_line_count": progress.future_line_count,
            **{f"{rule}_count": progress.broken_rules[rule] for rule in RULES},
        }
        for progress in batch
    ]
    copy_frame(connection, table, pl.DataFrame(rows))


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None


def _moment(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None


def next_batch(progress: FileProgress) -> FileProgress:
    """Return the progress of the same file at the start of the next batch."""
    return replace(progress, parts=[], broken_rules=Counter(), future_line_count=0, is_restarted=False)
