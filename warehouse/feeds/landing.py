"""Which files of a feed are to be read: new ones, ones that go on, ones with other content; by the hash of the content.

A file that is sent again under another name is known by its content, and so is one that was renamed.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, Literal

import psycopg

from warehouse.errors import DeclarationError
from warehouse.files import lake
from warehouse.files.lake import Checkpoint, FileUnreadable, LakeError, LakeFile, UnreadFile
from warehouse.files.locations import CREDENTIALS, Location, refuses_credentials
from warehouse.settings import Settings
from warehouse.sources.registry import declared_feeds, read_source
from warehouse.sources.source import Source

_BLOCK: Final = 1 << 20
DONE: Final = ".done"
# new; other content under a name that is known; one that was read and goes on; the content of another file; a file
# under another name; one that was touched.
State = Literal["new", "replaced", "grown", "copy", "renamed", "touched"]


@dataclass(frozen=True)
class FeedFile:
    """A file of a feed that is not known as it is now, and what is known of it."""

    file: LakeFile
    state: State
    content_hash: str
    # Its row in audit.file; of a copy, that of the file whose content it has.
    known: Checkpoint | None = None
    # The row in audit.file of the content that was read under its name before, if it begins with that.
    begins_as: int | None = None

    @property
    def is_read(self) -> bool:
        """Whether records of it are read."""
        return self.state in ("new", "replaced", "grown")


@dataclass(frozen=True)
class Landed:
    """What lies in the landing folder and is not known yet, what is not read, and what is still being written."""

    files: tuple[FeedFile, ...]
    unread: tuple[UnreadFile, ...]
    unsettled: tuple[LakeFile, ...]
    # What was known of the feed's files before.
    known: tuple[Checkpoint, ...]
    # Why there can be no files, if so.
    missing: str | None = None


def landing_folder(lake_url: str, source: Source) -> Location:
    """Where the feed's files land.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    assert source.feed is not None
    return lake.folder(lake_url, source.feed.landing)


@contextmanager
def readable(location: Location) -> Iterator[None]:
    """Say of a lake behind a URL why it cannot be read; the libraries for it have errors of their own.

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
        raise LakeError(
            f"{location} cannot be read: the server {what}.", hint=f"{CREDENTIALS} Nothing was loaded."
        ) from None


def find_files(connection: psycopg.Connection, source: Source, lake_url: str) -> Landed:
    """Compare the landing folder with audit.file: files in the order in which they were written."""
    feed = source.feed
    assert feed is not None
    folder = landing_folder(lake_url, source)
    with readable(folder):
        listing = lake.discover(folder, feed.ignore)
        missing = None if listing.files or listing.unread else lake.what_is_missing(folder)
    marked = {one.path.removesuffix(DONE) for one in listing.unread if one.path.endswith(DONE)}
    # Markers and drafts lie there for a reason.
    unread = [one for one in listing.unread if one.status != "ignored"]
    settled_ns = time.time_ns() - int(feed.settle_seconds * 1e9)
    ready: list[LakeFile] = []
    unsettled: list[LakeFile] = []
    for file in sorted(listing.files, key=lambda file: (file.modified_ns, file.path)):
        is_still = not feed.settle_seconds or file.modified_ns <= settled_ns
        is_ready = file.path in marked if feed.needs_done_marker else is_still
        (ready if is_ready else unsettled).append(file)
    found = []
    known = lake.checkpoints(connection, source.name)
    for one in _judge(ready, {file.path for file in listing.files}, known):
        if isinstance(one, UnreadFile):
            unread.append(one)
        else:
            found.append(one)
    return Landed(tuple(found), tuple(unread), tuple(unsettled), tuple(known), missing)


def _judge(
    files: Sequence[LakeFile], present: set[str], checkpoints: Sequence[Checkpoint]
) -> Iterator[FeedFile | UnreadFile]:
    by_path = {one.path: one for one in checkpoints if one.status != "replaced"}
    # A row without a hash is of a run that published nothing of the file.
    read_before = {one.path: one for one in checkpoints if one.content_hash}
    by_hash = {one.content_hash: one for one in checkpoints if one.content_hash and one.status != "copy"}
    for file in files:
        known = by_path.get(file.path)
        if known is not None and known.is_stamped_as(file) and known.content_hash:
            continue
        earlier = known if known and known.content_hash else read_before.get(file.path)
        try:
            with lake.naming(file.location):
                before, digest = hashes_of(
                    file.location, earlier.size_bytes if earlier else -1, file.size_bytes
                )
                begins_as = earlier.file_id if earlier and before and before == earlier.content_hash else None
                is_cut_at_a_line = (
                    earlier is not None and begins_as and _is_cut_at_a_line(file.location, earlier.size_bytes)
                )
        except FileUnreadable as error:
            yield UnreadFile(file.path, "unread", error.reason, error.advice)
            continue
        if known is not None and known.content_hash == digest:
            yield FeedFile(file, "touched", digest, known)
            continue
        original = by_hash.get(digest)
        # An earlier content that is back under its own name is a correction like any other.
        if original is not None and (original.status, original.path) != ("replaced", file.path):
            is_renamed = original.path not in present and known is None and original.status != "replaced"
            state: State = "renamed" if is_renamed else "copy"
            found = FeedFile(file, state, digest, original)
        elif known is None or not known.content_hash:
            found = FeedFile(file, "new", digest, known, begins_as)
        else:
            # What was appended to a record that had an end belongs to a line that has been read: it is read again.
            is_after_a_record = is_cut_at_a_line or known.unterminated_line_offset is not None
            goes_on = begins_as == known.file_id and known.byte_offset > 0 and is_after_a_record
            found = FeedFile(file, "grown" if goes_on else "replaced", digest, known, begins_as)
        if found.is_read:
            # The same content may be there twice before any of it is known.
            by_hash[digest] = replace(known, path=file.path) if known else _placeholder(file)
        yield found


def hashes_of(location: Location, size: int, end: int | None = None) -> tuple[str | None, str]:
    """SHA-256 of the first `size` bytes, None if there are no more, and of all of them or those before `end`.

    What is appended to a file while it is hashed must not count: the hash belongs to the size that was listed.
    """
    with location.open("rb") as content:
        return _hashes(content, size, end)


def _hashes(content: IO[bytes], size: int, end: int | None) -> tuple[str | None, str]:
    digest, before, count = hashlib.sha256(), None, 0
    while block := content.read(_BLOCK if end is None else min(_BLOCK, end - count)):
        if 0 <= count <= size < count + len(block):
            head = digest.copy()
            head.update(block[: size - count])
            before = head.hexdigest()
        digest.update(block)
        count += len(block)
    return before, digest.hexdigest()


def has_hashed_content(found: FeedFile, content: IO[bytes]) -> bool:
    """Whether an open file, read to its end, is the one that was found, at most with something appended since.

    Of an object store, which refuses what was replaced, nothing is read again.
    """
    if not isinstance(found.file.location, Path):
        return True
    status = os.fstat(content.fileno())
    inode = f"{status.st_dev}:{status.st_ino}"
    if (inode, status.st_size, status.st_mtime_ns) == (
        found.file.inode, found.file.size_bytes, found.file.modified_ns,
    ):  # fmt: skip
        return True
    content.seek(0)
    return _hashes(content, -1, found.file.size_bytes)[1] == found.content_hash


def _is_cut_at_a_line(location: Location, size: int) -> bool:
    """Whether a line ends just before or after the first `size` bytes, in UTF-16 and UTF-32, too."""
    with location.open("rb") as content:
        content.seek(max(size - 4, 0))
        before, after = content.read(min(size, 4)), content.read(4)
    return before.rstrip(b"\0").endswith((b"\n", b"\r")) or after.lstrip(b"\0").startswith((b"\n", b"\r"))


def _placeholder(file: LakeFile) -> Checkpoint:
    """Stands for a file of this run, which has no row in audit.file yet."""
    return Checkpoint(
        0,
        file.path,
        0,
        "",
        "",
        file.size_bytes,
        file.modified_ns,
        0,
        0,
        0,
        0,
        0,
        None,
        "partial",
        None,
        None,
        None,
    )


def follows_star(settings: Settings, name: str) -> bool:
    """Whether a source has rows that are made of what others have loaded."""
    try:
        return read_source(name, settings.sources).follows_star
    except DeclarationError:
        # The run that reads it raises the error.
        return False


def landed_feeds(settings: Settings) -> list[str]:
    """Names of the declared feeds whose landing folder is there, which are loaded; last those that follow the star.

    Raises:
        SettingsError: DWH_SOURCES names no folder, or the lake cannot be opened.
    """
    found: list[str] = []
    followers: list[str] = []
    for name in declared_feeds(settings.sources):
        try:
            source = read_source(name, settings.sources)
        except DeclarationError:
            # The run that reads it raises the error.
            found.append(name)
            continue
        if landing_folder(settings.lake, source).is_dir():
            (followers if source.follows_star else found).append(name)
    return [*found, *followers]
