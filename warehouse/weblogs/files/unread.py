"""Decide by its first lines that a file is not read, and record that in audit.file."""

from collections.abc import Callable

import numpy as np
import psycopg

from warehouse.files.content import HEAD_BYTES
from warehouse.files.kinds import ACCESS_LOG, EMPTY
from warehouse.files.lake import FileTask, UnreadFile, fingerprint
from warehouse.files.recognize import Recognized
from warehouse.files.rotation import MEMBER
from warehouse.weblogs.files.blocks import BYTE_ORDER_MARK, GAP
from warehouse.weblogs.files.checkpoints import register
from warehouse.weblogs.reader.buffers import PADDING, Bytes

# Number of first lines that are tried.
_TRIED_LINES = 1000


def judge(
    task: FileTask, count_readable: Callable[[Bytes, int], int], readable_share: float
) -> UnreadFile | None:
    """Return why a file is not read: fewer than `readable_share` of its first lines can be parsed. None if it is read.

    A file is always read if a line of it was loaded before. `count_readable(buffer, size)` counts the lines in the
    first `size` bytes of a buffer that can be parsed.
    """
    found, known = task.recognized, task.checkpoint
    is_known = task.state == "copy" or (known is not None and (known.rows_loaded or known.lines_duplicated))
    if found is None or is_known or found.kind == EMPTY:
        return None
    # An archive within an archive is not unpacked. Uncompressed, most of its lines would look readable.
    if found.is_archive:
        return _unrecognized(task, found, f"is {found}")
    lines = found.head.removeprefix(BYTE_ORDER_MARK).lstrip(GAP).split(b"\n")
    # Skip the last line if it may be incomplete: the file is longer than the head, or is still being written.
    is_whole = len(found.head) < HEAD_BYTES and bool(task.file.is_final or found.compression)
    lines = (lines if is_whole and lines[-1] else lines[:-1])[:_TRIED_LINES]
    content, count = b"".join(line + b"\n" for line in lines), len(lines)
    if not count and found.kind.may_be_log:
        return None
    readable = count_readable(np.frombuffer(content + bytes(PADDING), np.uint8), len(content))
    if readable and readable >= readable_share * count:
        return None
    if not found.kind.is_text:
        return _unrecognized(task, found, f"is {found}")
    what = "an access log of another format" if found.kind == ACCESS_LOG else str(found)
    # Without exact counts, which would report a growing file as changed in every run.
    lines_read = f"fewer than {readable_share:.0%}" if readable else "none"
    return _unrecognized(task, found, f"looks like {what}: {lines_read} of its first lines can be read")


def _unrecognized(task: FileTask, found: Recognized, reason: str) -> UnreadFile:
    path = str(task.file.location) if MEMBER not in task.file.path else task.file.path.partition(MEMBER)[0]
    return UnreadFile(task.file.path, "unrecognized", reason, found.kind.hint.replace("FILE", _quoted(path)))


def _quoted(path: str) -> str:
    """Quote a path for a shell."""
    return "'" + path.replace("'", "'\\''") + "'"


def set_aside(connection: psycopg.Connection, task: FileTask, unread: UnreadFile, run_id: int) -> None:
    """Record that a file is not read, and resolve its lines in quarantine. `connection` is in autocommit."""
    file, known = task.file, task.checkpoint
    if (
        known is not None
        and known.is_stamped_as(file)
        and (known.status, known.message, known.hint) == (unread.status, unread.reason, unread.hint)
    ):
        return
    with connection.transaction():
        # Do not mark the changes with the run: an undo of it must not revert them.
        connection.execute("select set_config('dwh.run_id', '', true)")
        file_id = register(connection, task, run_id).file_id
        connection.execute(
            """
            update audit.quarantine set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'replaced'
            where file_id = %s and (resolved_at is null or resolution = 'discarded')
            """,
            [run_id, file_id],
        )
        connection.execute("delete from audit.file_part where file_id = %s", [file_id])
        connection.execute(
            """
            update audit.file set
                -- The run that finds a new status or reason mails it.
                run_id = case
                    when (status, message) is distinct from (%(status)s, %(reason)s) then %(run_id)s else run_id
                end,
                status = %(status)s, message = %(reason)s, hint = %(hint)s, loaded_at = clock_timestamp(),
                size_bytes = %(size_bytes)s, modified_ns = %(modified_ns)s, inode = %(inode)s,
                head_bytes = 0, head_hash = %(nothing)s, tail_hash = %(nothing)s, byte_offset = 0, line_count = 0,
                rows_quarantined = 0, rows_discarded = 0, unterminated_line_offset = null, header_lines = '{}',
                format = null
            where file_id = %(file_id)s
            """,
            {
                **vars(unread), **vars(file), "run_id": run_id, "file_id": file_id, "nothing": fingerprint(b""),
            },
        )  # fmt: skip
