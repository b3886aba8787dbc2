"""Files of a feed in the lake: what is there, what of it is loaded, and where to go on."""

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
from warehouse.files.gzip_reader import ContentReader
from warehouse.files.locations import Location, files_below, location_of

# First and last bytes of what is loaded, by which a file is known again under another name.
FINGERPRINT_BYTES: Final = 4096
_READ = 1 << 20

State = Literal["new", "grown", "unchanged", "copy"]


class LakeError(WarehouseError):
    """A file of a feed cannot be read."""


@dataclass(frozen=True)
class LakeFile:
    """A file as it lies there: path relative to the landing folder, size in bytes, modification time."""

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
        """Whether lines of it are loaded or set aside under its own name."""
        return self.line_count > self.lines_duplicated


@dataclass(frozen=True)
class Work:
    """A file, what is loaded of it, and what that means for this run."""

    file: LakeFile
    state: State
    checkpoint: Checkpoint | None = None
    # Of a copy: how much of its beginning is loaded already, under the other file's name.
    skip_bytes: int = 0
    skip_lines: int = 0
    # Where the last of these lines begins, if it has no end yet.
    skip_open_line: int | None = None
    message: str | None = None
    # What the file was until now: it has grown by what is loaded under another name.
    former: Checkpoint | None = None


def folder(lake: str, landing: str) -> Location:
    """The landing folder of a feed.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    location = location_of(lake)
    return location / landing if landing else location


def what_is_missing(landing: Location) -> str | None:
    """Why a landing folder can hold no file, in words; None where it is there."""
    if landing.is_dir():
        return None
    return f"{landing} is no folder" if landing.exists() else f"{landing} is not there"


def discover(landing: Location, ignore: Sequence[str]) -> list[LakeFile]:
    """Files below the landing folder, by path; hidden ones and those that `ignore` names are left out."""
    return [
        LakeFile(_named("/".join(found.parts)), found.location, found.size_bytes, found.modified_ns)
        for found in files_below(landing)
        if not any(fnmatch.fnmatch(part, pattern) for part in found.parts for pattern in ignore)
    ]


def _named(path: str) -> str:
    """A path as text: bytes of names that are none are shown as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def checkpoints(connection: psycopg.Connection, feed: str) -> list[Checkpoint]:
    """What is loaded of the feed's files; of a path whose content was replaced, all of them."""
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
    """What to do with each file: a file is known by its content, whatever its name is now.

    A renamed or rotated file goes on where it was; a file whose path now holds something else is new; a copy of a
    file that is still there is not loaded again, but what it has beyond that is. Of files that grow alike, as copies
    that are still being written, each line is loaded from the first that has it.
    """

    def __init__(self, files: Sequence[LakeFile], known: Sequence[Checkpoint]) -> None:
        self._known = list(known)
        self._there: dict[int, LakeFile] = {}
        self._at_home: dict[str, Work] = {}
        by_path = {checkpoint.path: checkpoint for checkpoint in known if checkpoint.status != "replaced"}
        for file in files:
            checkpoint = by_path.get(file.path)
            if checkpoint is None:
                continue
            if (file.size_bytes, file.modified_ns) == (checkpoint.size_bytes, checkpoint.modified_ns):
                # A batch that ended inside a file leaves it partial.
                state: State = "grown" if checkpoint.status == "partial" else "unchanged"
            elif _goes_on(file, checkpoint):
                state = "grown"
            else:
                continue
            self._at_home[file.path] = Work(file, state, checkpoint)
            self._there[checkpoint.file_id] = file

    def is_unchanged(self, file: LakeFile) -> bool:
        """Whether the file is as it was when it was loaded."""
        known = self._at_home.get(file.path)
        return known is not None and known.state == "unchanged"

    def is_copy_or_new(self, file: LakeFile) -> bool:
        """Whether the file is not known by lines of its own."""
        known = self._at_home.get(file.path)
        return known is None or known.checkpoint is None or known.checkpoint.lines_duplicated > 0

    def work(self, file: LakeFile) -> Work:
        """What to do with a file; what `loaded` has told of others counts."""
        at_home = self._at_home.get(file.path)
        if at_home is None:
            return self._recognise(file)
        own = at_home.checkpoint
        if at_home.state == "unchanged" or own is None:
            return at_home
        elsewhere = self._recognise(file, own)
        return at_home if elsewhere.state == "new" else replace(elsewhere, former=own)

    def loaded(self, file: LakeFile, checkpoint: Checkpoint) -> None:
        """`file` is loaded as far as `checkpoint` says."""
        self._known = [one for one in self._known if one.file_id != checkpoint.file_id] + [checkpoint]
        self._there[checkpoint.file_id] = file

    def _recognise(self, file: LakeFile, own: Checkpoint | None = None) -> Work:
        """Whether other files have what this one has, beyond what is loaded of it as its `own`."""
        beyond = own.byte_offset if own and own.has_lines else 0
        with reading(file.location) as content:
            head = content.read(FINGERPRINT_BYTES)
        # Few lengths are distinct: nearly all files are longer than what is hashed.
        hashes: dict[int, str] = {}
        alike = []
        for known in self._known:
            if known.byte_offset <= beyond or (own and known.file_id == own.file_id):
                continue
            length = known.head_bytes
            if len(head) >= length:
                if length not in hashes:
                    hashes[length] = fingerprint(head[:length])
                if hashes[length] != known.head_hash:
                    continue
            alike.append(known)
        for known in sorted(alike, key=lambda known: (-known.byte_offset, known.file_id)):
            original = self._there.get(known.file_id)
            shared = None
            if _goes_on(file, known):
                if original is None:
                    return Work(file, "grown", replace(known, path=file.path))
                shared = _shared(known, file)
            elif original is not None:
                shared = _shared_if_beginning(file.location, original.location)
            if original is not None and shared is not None and shared[0] > beyond:
                message = (
                    f"its first {shared[1]:,} lines are those of {original.path}, and are not loaded again"
                )
                return Work(file, "copy", None, *shared, message)
        return Work(file, "new")


def edges(location: Location, byte_count: int) -> tuple[bytes, bytes]:
    """The first and the last bytes of the first `byte_count` of a file, as they are fingerprinted."""
    size = min(FINGERPRINT_BYTES, byte_count)
    with reading(location) as content:
        head = content.read(size)
        content.skip_to(max(byte_count - size, len(head)))
        return head, (head + content.read(byte_count - content.position))[-size:] if size else b""


def _goes_on(file: LakeFile, known: Checkpoint) -> bool:
    """Whether the file begins as the loaded one did, and has the same bytes where that one was left."""
    if not known.byte_offset:
        return known.path == file.path
    head, tail = edges(file.location, known.byte_offset)
    return (fingerprint(head), fingerprint(tail)) == (known.head_hash, known.tail_hash)


def _shared(known: Checkpoint, file: LakeFile) -> tuple[int, int, int | None]:
    """Bytes, lines and open last line that a file shares with a loaded one; a line that goes on here is not shared."""
    with reading(file.location) as content:
        content.skip_to(known.byte_offset)
        after = content.read(2)
    if known.unterminated_line_offset is None or not after:
        return known.byte_offset, known.line_count, known.unterminated_line_offset
    if end := line_end(after):
        return known.byte_offset + end, known.line_count, None
    return known.unterminated_line_offset, known.line_count - 1, None


def line_end(after: bytes) -> int:
    """Length of the line end that `after` begins with, 0 if it begins with none."""
    return 1 if after[:1] == b"\n" else 2 if after == b"\r\n" else 0


def _shared_if_beginning(short: Location, long: Location) -> tuple[int, int, int | None] | None:
    """Bytes, lines and open last line of a file that is wholly the beginning of another; None where it is not."""
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
    """A file's content.

    Raises:
        LakeError: it cannot be read.
    """
    try:
        return ContentReader(location)
    except OSError as error:
        raise LakeError(
            f"{location} cannot be read: {error.strerror}.",
            hint="May this user read it? Nothing was loaded.",
        ) from None


def fingerprint(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
