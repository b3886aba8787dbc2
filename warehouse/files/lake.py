"""Files of a feed in the lake: which exist, what is loaded of each, and where to resume."""

import fnmatch
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

import psycopg
from psycopg.rows import class_row

from warehouse.errors import WarehouseError
from warehouse.files.content import ContentReader
from warehouse.files.locations import Location, files_below, location_of

# First and last bytes of what is loaded: they identify a file that was renamed.
FINGERPRINT_BYTES: Final = 4096
_READ = 1 << 20

State = Literal["new", "grown", "unchanged", "copy"]


class LakeError(WarehouseError):
    """A file of a feed cannot be read."""


@dataclass(frozen=True)
class LakeFile:
    """A file: path relative to the landing folder, size in bytes, modification time."""

    path: str
    location: Location
    size_bytes: int
    modified_ns: int


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


def discover(landing: Location, ignore: Sequence[str]) -> list[LakeFile]:
    """Files below the landing folder, by path, without those that match a pattern of `ignore`."""
    return [
        LakeFile(_printable_path("/".join(found.parts)), found.location, found.size_bytes, found.modified_ns)
        for found in files_below(landing)
        if not any(fnmatch.fnmatch(part, pattern) for part in found.parts for pattern in ignore)
    ]


def _printable_path(path: str) -> str:
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
                first_event_at, last_event_at
            from audit.file where feed = %s order by file_id
            """,
            [feed],
        ).fetchall()


class Catalog:
    """Finds out what to load of each file. A file is identified by its content, not by its name.

    A renamed or rotated file is resumed. A file whose path has other content now is new. Of a copy of an existing file
    only what it has beyond that file is loaded. Of copies that are both still being written, each line is loaded from
    the first file that has it.
    """

    def __init__(self, files: Sequence[LakeFile], known: Sequence[Checkpoint]) -> None:
        self._known = list(known)
        self._present: dict[int, LakeFile] = {}
        self._by_own_path: dict[str, FileTask] = {}
        by_path = {checkpoint.path: checkpoint for checkpoint in known if checkpoint.status != "replaced"}
        for file in files:
            checkpoint = by_path.get(file.path)
            if checkpoint is None:
                continue
            if (file.size_bytes, file.modified_ns) == (checkpoint.size_bytes, checkpoint.modified_ns):
                # A batch that ended inside a file leaves it partial.
                state: State = "grown" if checkpoint.status == "partial" else "unchanged"
            elif _continues(file, checkpoint):
                state = "grown"
            else:
                continue
            self._by_own_path[file.path] = FileTask(file, state, checkpoint)
            self._present[checkpoint.file_id] = file

    def is_unchanged(self, file: LakeFile) -> bool:
        """Whether the file has not changed since it was loaded."""
        known = self._by_own_path.get(file.path)
        return known is not None and known.state == "unchanged"

    def is_copy_or_new(self, file: LakeFile) -> bool:
        """Whether the file is a copy or new: no checkpoint has lines of its own."""
        known = self._by_own_path.get(file.path)
        return known is None or known.checkpoint is None or known.checkpoint.lines_duplicated > 0

    def task(self, file: LakeFile) -> FileTask:
        """What to do with a file, given what `loaded` has recorded of others."""
        under_own_path = self._by_own_path.get(file.path)
        if under_own_path is None:
            return self._find_original(file)
        own = under_own_path.checkpoint
        if under_own_path.state == "unchanged" or own is None:
            return under_own_path
        elsewhere = self._find_original(file, own)
        return under_own_path if elsewhere.state == "new" else replace(elsewhere, former=own)

    def loaded(self, file: LakeFile, checkpoint: Checkpoint) -> None:
        """Record that a file is loaded as far as `checkpoint`."""
        self._known = [one for one in self._known if one.file_id != checkpoint.file_id] + [checkpoint]
        self._present[checkpoint.file_id] = file

    def _find_original(self, file: LakeFile, own: Checkpoint | None = None) -> FileTask:
        """Find a loaded file with the same content, beyond the checkpoint `own` of the file itself."""
        beyond = own.byte_offset if own and own.has_lines else 0
        with reading(file.location) as content:
            head = content.read(FINGERPRINT_BYTES)
        # Nearly all files are longer than the fingerprint, so few distinct lengths are hashed.
        hashes: dict[int, str] = {}
        candidates = []
        for known in self._known:
            if known.byte_offset <= beyond or (own and known.file_id == own.file_id):
                continue
            length = known.head_bytes
            if len(head) >= length:
                if length not in hashes:
                    hashes[length] = fingerprint(head[:length])
                if hashes[length] != known.head_hash:
                    continue
            candidates.append(known)
        for known in sorted(candidates, key=lambda known: (-known.byte_offset, known.file_id)):
            original = self._present.get(known.file_id)
            shared = None
            if _continues(file, known):
                if original is None:
                    return FileTask(file, "grown", replace(known, path=file.path))
                shared = _shared(known, file)
            elif original is not None:
                shared = _shared_if_beginning(file.location, original.location)
            if original is not None and shared is not None and shared[0] > beyond:
                message = (
                    f"its first {shared[1]:,} lines are those of {original.path}, and are not loaded again"
                )
                return FileTask(file, "copy", None, *shared, message)
        return FileTask(file, "new")


def edges(location: Location, byte_count: int) -> tuple[bytes, bytes]:
    """The first and last bytes of the first `byte_count` bytes of a file, for its fingerprint."""
    size = min(FINGERPRINT_BYTES, byte_count)
    with reading(location) as content:
        head = content.read(size)
        content.skip_to(max(byte_count - size, len(head)))
        return head, (head + content.read(byte_count - content.position))[-size:] if size else b""


def _continues(file: LakeFile, known: Checkpoint) -> bool:
    """Whether the file has the content of the loaded one, by the fingerprint of its first and last bytes."""
    if not known.byte_offset:
        return known.path == file.path
    head, tail = edges(file.location, known.byte_offset)
    return (fingerprint(head), fingerprint(tail)) == (known.head_hash, known.tail_hash)


def _shared(known: Checkpoint, file: LakeFile) -> tuple[int, int, int | None]:
    """Bytes, lines and open last line that a file shares with a loaded one; a line that is longer here is not."""
    with reading(file.location) as content:
        content.skip_to(known.byte_offset)
        after = content.read(2)
    if known.unterminated_line_offset is None or not after:
        return known.byte_offset, known.line_count, known.unterminated_line_offset
    if end := line_end(after):
        return known.byte_offset + end, known.line_count, None
    return known.unterminated_line_offset, known.line_count - 1, None


def line_end(after: bytes) -> int:
    """Length of the line end at the beginning of `after`; 0 if there is none."""
    return 1 if after[:1] == b"\n" else 2 if after == b"\r\n" else 0


def _shared_if_beginning(short: Location, long: Location) -> tuple[int, int, int | None] | None:
    """Bytes, lines and open last line of a file that is the beginning of another; None if it is not."""
    byte_count = line_count = last_line = 0
    with reading(short) as part, reading(long) as whole:
        while piece := part.read(_READ):
            if whole.read(len(piece)) != piece:
                return None
            if b"\n" in piece:
                last_line = byte_count + piece.rindex(b"\n") + 1
            byte_count += len(piece)
            line_count += piece.count(b"\n")
    is_open = last_line < byte_count
    return (byte_count, line_count + is_open, last_line if is_open else None) if byte_count else None


def reading(location: Location) -> ContentReader:
    """Open a file.

    Raises:
        LakeError: it cannot be read.
    """
    try:
        return ContentReader(location)
    except OSError as error:
        raise LakeError(
            f"{location} cannot be read: {error.strerror}.",
            hint="Check the permissions of the file. Nothing was loaded.",
        ) from None


def fingerprint(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
