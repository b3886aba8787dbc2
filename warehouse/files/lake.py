"""Files of a feed in the lake: what is loaded of each, and what there is to load."""

import fnmatch
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

import psycopg
from psycopg.rows import class_row

from warehouse.errors import WarehouseError, visible
from warehouse.files.content import ContentReader
from warehouse.files.locations import Location, files_below, location_of
from warehouse.files.recognize import Recognized

# First and last bytes of what is loaded: they identify a file that was renamed.
FINGERPRINT_BYTES: Final = 4096

# reread: from the beginning, since none of its lines could be read when it was loaded.
State = Literal["new", "grown", "unchanged", "copy", "reread"]
# Statuses of files of which nothing is loaded.
NOT_READ: Final = ("unrecognized", "unread", "ignored")


REPLACED: Final = "was removed or replaced before it was read"
READ_NEXT: Final = "The next run reads what lies there then."
RENAME: Final = (
    "If it should be loaded, give it another name, or declare its format if it is a web log "
    "(`dwh weblogs inspect FILE`)."
)
MAKE_READABLE: Final = (
    "Give the user who runs dwh the right to read it, or move it out of the landing folder."
)


class LakeError(WarehouseError):
    """A file of a feed cannot be read."""


class FileUnreadable(LakeError):
    """One file cannot be read, and others can: why, and what to do about it."""

    def __init__(self, location: Location, reason: str, hint: str) -> None:
        super().__init__(f"{visible(str(location))} {reason}.", hint=f"{hint} Nothing was loaded.")
        self.reason, self.advice = reason, hint


@dataclass(frozen=True)
class LakeFile:
    """A file: path relative to the landing folder, size in bytes, modification time."""

    path: str
    location: Location
    size_bytes: int
    modified_ns: int
    # Device and number on a local disk, which stay when the file is renamed.
    inode: str | None = None
    # A file of an archive: nobody writes on in it.
    is_final: bool = False


@dataclass(frozen=True)
class UnreadFile:
    """Something in a landing folder that is not read: why, and what to do about it."""

    path: str
    # unrecognized: none of its lines can be read; unread: it cannot be opened; ignored: by its name.
    status: Literal["unrecognized", "unread", "ignored"]
    reason: str
    hint: str
    # Size and modification time of an archive that would be unpacked in vain in every run.
    stamp: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Checkpoint:
    """What is loaded of a file: its row in audit.file."""

    file_id: int
    path: str
    head_bytes: int
    head_hash: str
    tail_hash: str
    size_bytes: int
    modified_ns: int
    byte_offset: int
    line_count: int
    lines_duplicated: int
    rows_loaded: int
    rows_quarantined: int
    unterminated_line_offset: int | None
    status: str
    message: str | None
    first_event_at: datetime | None
    last_event_at: datetime | None
    inode: str | None = None
    hint: str | None = None
    # Lines that say how others are read, and the format in which all were read.
    header_lines: list[int] = field(default_factory=list)
    format: str | None = None
    # SHA-256 of all of the file as it lies there, where it was read as a whole.
    content_hash: str | None = None
    rows_discarded: int = 0

    def is_stamped_as(self, file: LakeFile) -> bool:
        """Whether the file has the size and the modification time that it had when it was loaded."""
        return (file.size_bytes, file.modified_ns) == (self.size_bytes, self.modified_ns)

    def is_known_as(self, file: LakeFile) -> bool:
        """Whether the file system says that `file` is the one that was loaded, whatever its name is now."""
        # Two files are never written in the same nanosecond; in the same second, as some systems count, they may be.
        if self.is_stamped_as(file) and self.modified_ns % 1_000_000_000 != 0:
            return True
        # The number of a file that was deleted may be another's soon: it says something only beside much content.
        return self.byte_offset >= FINGERPRINT_BYTES and self.inode is not None and self.inode == file.inode

    @property
    def unread(self) -> UnreadFile:
        """Why nothing of it is read; its status is one of `NOT_READ`."""
        stamp = (self.size_bytes, self.modified_ns) if self.size_bytes >= 0 else None
        return UnreadFile(self.path, cast(Any, self.status), self.message or "", self.hint or "", stamp)

    @property
    def has_only_rejected_lines(self) -> bool:
        """Whether it has whole lines of its own, and all of them are in quarantine."""
        has_whole_lines = self.line_count > (self.unterminated_line_offset is not None)
        return has_whole_lines and self.rows_quarantined == self.line_count

    @property
    def has_lines(self) -> bool:
        """Whether lines of it are loaded or quarantined under its own id."""
        return self.line_count > self.lines_duplicated


@dataclass(frozen=True)
class FileTask:
    """A file to load: what is loaded of it, and what this run has to do."""

    file: LakeFile
    state: State
    checkpoint: Checkpoint | None = None
    # Of a copy: how much of its beginning is loaded already, as the other file's.
    skip_bytes: int = 0
    skip_lines: int = 0
    # Offset of the last of these lines, if it has no end yet.
    skip_unterminated_line: int | None = None
    message: str | None = None
    # The file's own checkpoint, if its new part is loaded already as another file's.
    former: Checkpoint | None = None
    recognized: Recognized | None = None
    # An archive whose files have been read: their tasks came before.
    is_archive: bool = False
    # Why not all of it could be read.
    fault: str | None = None


def folder(lake: str, landing: str) -> Location:
    """The landing folder of a feed.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    location = location_of(lake)
    return location / landing if landing else location


def what_is_missing(landing: Location) -> str | None:
    """Why a landing folder cannot have files, in words; None if it exists."""
    if landing.is_dir():
        return None
    return f"{landing} is not a folder" if landing.exists() else f"{landing} does not exist"


@dataclass(frozen=True)
class Landing:
    """What lies below a landing folder: files to read, and what is not read."""

    files: tuple[LakeFile, ...]
    unread: tuple[UnreadFile, ...]


def discover(
    landing: Location, ignore: Sequence[str], is_named: Callable[[str], bool] | None = None
) -> Landing:
    """Everything below the landing folder, by path; what matches a pattern of `ignore` is not read.

    But a file that `is_named` by its path is.
    """
    files: list[LakeFile] = []
    unread: dict[str, UnreadFile] = {}
    for found in files_below(landing):
        ignored = ignored_part(found.parts, ignore)
        is_whole = ignored is not None and ignored[0] == len(found.parts)
        if is_whole and is_named is not None and is_named(printable_path("/".join(found.parts))):
            ignored = None
        if ignored is not None:
            # Of an ignored folder, once.
            depth, pattern = ignored
            is_folder = depth < len(found.parts)
            path = printable_path("/".join(found.parts[:depth]) + "/" * is_folder)
            unread.setdefault(path, UnreadFile(path, "ignored", f"names like {pattern} are ignored", RENAME))
            continue
        path = printable_path("/".join(found.parts))
        if found.obstacle is not None:
            unread[path] = UnreadFile(path, "unread", f"is {found.obstacle}", found.hint)
            continue
        files.append(LakeFile(path, found.location, found.size_bytes, found.modified_ns, found.inode))
    return Landing(tuple(files), tuple(unread.values()))


def ignored_part(parts: Sequence[str], ignore: Sequence[str]) -> tuple[int, str] | None:
    """How many parts of a path lead to one that is ignored, and by which pattern; None if none is."""
    for depth, part in enumerate(parts, start=1):
        for pattern in ignore:
            if fnmatch.fnmatch(part, pattern):
                return depth, pattern
    return None


def printable_path(path: str) -> str:
    """A path as text: bytes that are not valid UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def checkpoints(connection: psycopg.Connection, feed: str) -> list[Checkpoint]:
    """Checkpoints of the feed's files, including those whose path has other content now."""
    with connection.cursor(row_factory=class_row(Checkpoint)) as cursor:
        return cursor.execute(
            """
            select
                file_id, path, head_bytes, head_hash, tail_hash, size_bytes, modified_ns, byte_offset, line_count,
                lines_duplicated, rows_loaded, rows_quarantined, unterminated_line_offset, status, message,
                first_event_at, last_event_at, inode, hint, header_lines, format,
                content_hash, rows_discarded
            from audit.file where feed = %s order by file_id
            """,
            [feed],
        ).fetchall()


def edges(location: Location, byte_count: int) -> tuple[bytes, bytes]:
    """The first and last bytes of the first `byte_count` bytes of a file, for its fingerprint."""
    size = min(FINGERPRINT_BYTES, byte_count)
    with reading(location) as content:
        head = content.read(size)
        content.skip_to(max(byte_count - size, len(head)))
        return head, (head + content.read(byte_count - content.position))[-size:] if size else b""


def line_end(after: bytes) -> int:
    """Length of the line end at the beginning of `after`; 0 if there is none."""
    return 1 if after[:1] == b"\n" else 2 if after == b"\r\n" else 0


def reading(location: Location) -> ContentReader:
    """Open a file.

    Raises:
        LakeError: it cannot be read.
    """
    with naming(location):
        return ContentReader(location)


@contextmanager
def naming(location: Location) -> Iterator[None]:
    """Say of which file an error is, and whether of that one alone.

    Raises:
        FileUnreadable: others can be read.
        LakeError: it cannot be read, and perhaps no other.
    """
    try:
        yield
    except OSError as error:
        # An object store refuses an object that is another one by now.
        if isinstance(error, FileNotFoundError) or type(error).__name__ == "FileExpired":
            raise FileUnreadable(location, REPLACED, READ_NEXT) from None
        reason = f"cannot be read: {error.strerror or error}"
        if isinstance(location, Path) or isinstance(error, PermissionError):
            raise FileUnreadable(location, reason, MAKE_READABLE) from None
        raise LakeError(
            f"{visible(str(location))} {reason}.",
            hint="Check the permissions of the file. Nothing was loaded.",
        ) from None


def fingerprint(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
