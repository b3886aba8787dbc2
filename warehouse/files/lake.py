"""Files of a feed in the lake: find them, and keep a checkpoint of what is loaded of each."""

import fnmatch
import hashlib
import os
import re
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
from warehouse.files.locations import CREDENTIALS, Location, files_below, location_of, refuses_credentials
from warehouse.files.recognize import Recognized

# Number of bytes at the beginning and end of the loaded content that are hashed, to identify a renamed file.
FINGERPRINT_BYTES: Final = 4096

# reread: load it again from the beginning, since all of its lines went to quarantine.
State = Literal["new", "grown", "unchanged", "copy", "reread"]
# Statuses of files from which nothing is loaded.
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

_LIKE_A_BYTE: Final = re.compile(rb"\\(?=x[0-9a-f]{2})")


class LakeError(WarehouseError):
    """A file of a feed cannot be read."""


class FileUnreadable(LakeError):
    """One file cannot be read, while others can: the reason, and what to do about it."""

    def __init__(self, location: Location, reason: str, hint: str) -> None:
        super().__init__(f"{visible(str(location))} {reason}. Nothing was loaded.", hint=hint)
        self.reason = reason


@dataclass(frozen=True)
class LakeFile:
    """A file: path relative to the landing folder, size in bytes, modification time."""

    path: str
    location: Location
    size_bytes: int
    modified_ns: int
    # Device and inode on a local disk: they stay the same when the file is renamed.
    inode: str | None = None
    # True for a member of an archive: no more lines are appended to it.
    is_final: bool = False


@dataclass(frozen=True)
class UnreadFile:
    """An entry of a landing folder that is not read: the reason, and what to do about it."""

    path: str
    # unrecognized: none of its lines can be parsed; unread: it cannot be opened; ignored: by its name.
    status: Literal["unrecognized", "unread", "ignored"]
    reason: str
    hint: str
    # Size and modification time of an archive beyond the limits, so that it is not unpacked again in every run.
    stamp: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Checkpoint:
    """How far a file is loaded: its row in audit.file."""

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
    # Numbers of header lines, which declare the format of the lines below, and the format of all lines.
    header_lines: list[int] = field(default_factory=list)
    format: str | None = None
    # SHA-256 of the whole file as stored, if it was read completely.
    content_hash: str | None = None
    rows_discarded: int = 0

    def is_stamped_as(self, file: LakeFile) -> bool:
        """Whether the file's size and modification time have not changed since it was loaded."""
        return (file.size_bytes, file.modified_ns) == (self.size_bytes, self.modified_ns)

    def is_known_as(self, file: LakeFile) -> bool:
        """Whether `file` is the one that was loaded, perhaps renamed, by its size, time and inode."""
        # A time in nanoseconds identifies a file. Some file systems have only seconds, which two files may share.
        if self.is_stamped_as(file) and self.modified_ns % 1_000_000_000 != 0:
            return True
        # Inodes of deleted files are soon used again: they count only together with equal content of some length.
        return self.byte_offset >= FINGERPRINT_BYTES and self.inode is not None and self.inode == file.inode

    @property
    def unread(self) -> UnreadFile:
        """The reason why the file is not read. The status must be one of `NOT_READ`."""
        stamp = (self.size_bytes, self.modified_ns) if self.size_bytes >= 0 else None
        return UnreadFile(self.path, cast(Any, self.status), self.message or "", self.hint or "", stamp)

    @property
    def has_only_rejected_lines(self) -> bool:
        """Whether the file has complete lines, and all of its lines are in quarantine."""
        has_whole_lines = self.line_count > (self.unterminated_line_offset is not None)
        return has_whole_lines and self.rows_quarantined == self.line_count

    @property
    def has_lines(self) -> bool:
        """Whether lines of it are loaded or quarantined under its own id."""
        return self.line_count > self.lines_duplicated


@dataclass(frozen=True)
class FileTask:
    """A file to load: how far it is loaded, and what this run has to do."""

    file: LakeFile
    state: State
    checkpoint: Checkpoint | None = None
    # Bytes and lines at the beginning of a copy that are loaded already from the original.
    skip_bytes: int = 0
    skip_lines: int = 0
    # Offset of the last of these lines, if it has no line end yet.
    skip_unterminated_line: int | None = None
    message: str | None = None
    # The file's own checkpoint, if its new part was loaded already from another file.
    former: Checkpoint | None = None
    recognized: Recognized | None = None
    # True for an archive; the tasks of its members come before this one.
    is_archive: bool = False
    # Why the file could not be read completely.
    fault: str | None = None


def folder(lake: str, landing: str) -> Location:
    """Return the landing folder of a feed.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    location = location_of(lake)
    return location / landing if landing else location


@contextmanager
def readable(location: Location) -> Iterator[None]:
    """Translate errors of an object store's client into `LakeError`.

    Raises:
        LakeError: it cannot be reached, or refuses the credentials.
    """
    try:
        yield
    except LakeError:
        raise
    except Exception as error:
        if isinstance(location, Path) or isinstance(error, psycopg.Error):
            raise
        is_refused = refuses_credentials(error)
        what = "refuses the credentials" if is_refused else f"cannot be reached ({type(error).__name__})"
        raise LakeError(f"{location} cannot be read: the server {what}.", hint=CREDENTIALS) from None


def what_is_missing(landing: Location) -> str | None:
    """Return why a landing folder cannot be listed, in words; None if it exists.

    Raises:
        LakeError: the object store cannot be reached.
    """
    with readable(landing):
        if landing.is_dir():
            return None
        return f"{landing} is not a folder" if landing.exists() else f"{landing} does not exist"


@dataclass(frozen=True)
class Landing:
    """Contents of a landing folder: files to read, and entries that are not read."""

    files: tuple[LakeFile, ...]
    unread: tuple[UnreadFile, ...]


def discover(
    landing: Location, ignore: Sequence[str], is_named: Callable[[str], bool] | None = None
) -> Landing:
    """List everything below the landing folder, ordered by path. Names that match a pattern of `ignore` are not read.

    A file for whose path `is_named` is true is read in any case.

    Raises:
        LakeError: the object store cannot be reached.
    """
    files: list[LakeFile] = []
    unread: dict[str, UnreadFile] = {}
    with readable(landing):
        everything = list(files_below(landing))
    for found in everything:
        ignored = ignored_part(found.parts, ignore)
        is_whole = ignored is not None and ignored[0] == len(found.parts)
        if is_whole and is_named is not None and is_named(printable_path("/".join(found.parts))):
            ignored = None
        if ignored is not None:
            # Report an ignored folder once, not each of its files.
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
    """Return the depth of the first ignored part of a path, and its pattern; None if no part is ignored."""
    for depth, part in enumerate(parts, start=1):
        for pattern in ignore:
            if fnmatch.fnmatch(part, pattern):
                return depth, pattern
    return None


def printable_path(path: str) -> str:
    """Return a path as text, with bytes that are not valid UTF-8 written as \\xNN.

    A backslash that would begin such a byte is written as \\x5c, so that no two paths look alike.
    """
    return _LIKE_A_BYTE.sub(rb"\\x5c", os.fsencode(path)).decode("utf-8", "backslashreplace")


def checkpoints(connection: psycopg.Connection, feed: str) -> list[Checkpoint]:
    """Return the checkpoints of a feed's files, including those whose path has other content now."""
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
    """Return the first and the last bytes of a file's first `byte_count` bytes, for its fingerprint."""
    size = min(FINGERPRINT_BYTES, byte_count)
    with reading(location) as content:
        head = content.read(size)
        content.skip_to(max(byte_count - size, len(head)))
        return head, (head + content.read(byte_count - content.position))[-size:] if size else b""


def line_end(after: bytes) -> int:
    """Return the length of the line end at the beginning of `after`; 0 if there is none."""
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
    """Translate errors of reading a file into errors that name it.

    Raises:
        FileUnreadable: only this file cannot be read.
        LakeError: perhaps no file can be read.
    """
    try:
        yield
    except OSError as error:
        # An object store raises FileExpired if the object was replaced while it was read.
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
    """Return the SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
