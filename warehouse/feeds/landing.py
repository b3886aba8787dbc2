"""Decide which files of a feed to read (new, grown or replaced ones) by the hashes of their contents.

The hash also identifies renamed files, and files that are delivered again under another name.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, Literal

import psycopg

from warehouse.errors import DeclarationError
from warehouse.files import lake
from warehouse.files.lake import Checkpoint, FileUnreadable, LakeError, LakeFile, UnreadFile
from warehouse.files.locations import Location
from warehouse.settings import Settings
from warehouse.sources.registry import declared_feeds, read_source
from warehouse.sources.source import Source

_BLOCK: Final = 1 << 20
DONE: Final = ".done"
# replaced: other content under a known name; grown: lines were appended to what was read; copy: same content as another
# file; renamed: same content, and the old name is gone; touched: only the modification time has changed.
State = Literal["new", "replaced", "grown", "copy", "renamed", "touched"]


@dataclass(frozen=True)
class FeedFile:
    """A file of a feed whose present state is not recorded yet, with the checkpoint it is compared with."""

    file: LakeFile
    state: State
    content_hash: str
    # The file's row in audit.file; for a copy, the row of the original.
    known: Checkpoint | None = None
    # file_id of the content that was read earlier under this name, if the file begins with it.
    begins_as: int | None = None
    # Number of records at its beginning that were read then.
    known_records: int = 0

    @property
    def is_read(self) -> bool:
        """Whether this run reads records of the file."""
        return self.state in ("new", "replaced", "grown")


@dataclass(frozen=True)
class Landed:
    """Contents of the landing folder: new or changed files, entries that are not read, files still being written."""

    files: tuple[FeedFile, ...]
    unread: tuple[UnreadFile, ...]
    unsettled: tuple[LakeFile, ...]
    # The feed's checkpoints before this run.
    known: tuple[Checkpoint, ...]
    # Why the landing folder cannot be listed, if so.
    missing: str | None = None


def landing_folder(lake_url: str, source: Source) -> Location:
    """Return the landing folder of a feed.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    assert source.feed is not None
    return lake.folder(lake_url, source.feed.landing)


def find_files(connection: psycopg.Connection, source: Source, lake_url: str) -> Landed:
    """Compare the landing folder with audit.file. Files are in the order of their modification times."""
    feed = source.feed
    assert feed is not None
    folder = landing_folder(lake_url, source)
    listing = lake.discover(folder, feed.ignore)
    missing = None if listing.files or listing.unread else lake.what_is_missing(folder)
    marked = {one.path.removesuffix(DONE) for one in listing.unread if one.path.endswith(DONE)}
    # Ignored files (markers, drafts) need no report.
    unread = [one for one in listing.unread if one.status != "ignored"]
    settled_ns = time.time_ns() - int(feed.settle_seconds * 1e9)
    ready: list[LakeFile] = []
    unsettled: list[LakeFile] = []
    for file in sorted(listing.files, key=lambda file: (file.modified_ns, file.path)):
        is_still = not feed.settle_seconds or file.modified_ns <= settled_ns
        is_ready = file.path in marked if feed.needs_done_marker else is_still
        (ready if is_ready else unsettled).append(file)
    feed_files = []
    checkpoints = lake.checkpoints(connection, source.name)
    for one in _judge(ready, {file.path for file in listing.files}, checkpoints):
        if isinstance(one, UnreadFile):
            unread.append(one)
        else:
            feed_files.append(one)
    return Landed(tuple(feed_files), tuple(unread), tuple(unsettled), tuple(checkpoints), missing)


def _judge(
    files: Sequence[LakeFile], present: set[str], checkpoints: Sequence[Checkpoint]
) -> Iterator[FeedFile | UnreadFile]:
    by_path = {one.path: one for one in checkpoints if one.status != "replaced"}
    # A row without a hash is from a run that published nothing of the file.
    read_before = {one.path: one for one in checkpoints if one.content_hash}
    by_hash = {one.content_hash: one for one in checkpoints if one.content_hash and one.status != "copy"}
    for file in files:
        checkpoint = by_path.get(file.path)
        known_records = 0
        if checkpoint is not None and checkpoint.is_stamped_as(file) and checkpoint.content_hash:
            continue
        earlier = checkpoint if checkpoint and checkpoint.content_hash else read_before.get(file.path)
        try:
            with lake.naming(file.location):
                before, digest = hashes_of(
                    file.location, earlier.size_bytes if earlier else -1, file.size_bytes
                )
                begins_as = earlier.file_id if earlier and before and before == earlier.content_hash else None
                is_cut_at_a_line = (
                    earlier is not None and begins_as and _is_cut_at_a_line(file.location, earlier.size_bytes)
                )
                if earlier is not None and begins_as and earlier.status != "copy":
                    # Its last record may have been cut off within the line.
                    known_records = earlier.line_count - (not is_cut_at_a_line)
        except FileUnreadable as error:
            yield UnreadFile(file.path, "unread", error.reason, error.hint)
            continue
        if checkpoint is not None and checkpoint.content_hash == digest:
            yield FeedFile(file, "touched", digest, checkpoint)
            continue
        original = by_hash.get(digest)
        # If the file has its own earlier content again, it is read like any other correction.
        if original is not None and (original.status, original.path) != ("replaced", file.path):
            is_renamed = original.path not in present and checkpoint is None and original.status != "replaced"
            state: State = "renamed" if is_renamed else "copy"
            feed_file = FeedFile(file, state, digest, original)
            if is_renamed:
                # Further files with this content are its copies.
                by_hash[digest] = replace(original, path=file.path)
        elif checkpoint is None or not checkpoint.content_hash:
            feed_file = FeedFile(file, "new", digest, checkpoint, begins_as, known_records)
        else:
            # If text was appended to the last line that was read, not below it, the whole file is read again.
            is_after_a_record = is_cut_at_a_line or checkpoint.unterminated_line_offset is not None
            goes_on = begins_as == checkpoint.file_id and checkpoint.byte_offset > 0 and is_after_a_record
            grown: State = "grown" if goes_on else "replaced"
            feed_file = FeedFile(file, grown, digest, checkpoint, begins_as, known_records)
        if feed_file.is_read:
            # Two new files may have the same content: the second one is a copy of the first.
            by_hash[digest] = replace(checkpoint, path=file.path) if checkpoint else _placeholder(file)
        yield feed_file


def hashes_of(location: Location, size: int, end: int | None = None) -> tuple[str | None, str]:
    """Return the SHA-256 of the first `size` bytes (None if the file is not longer), and of all bytes up to `end`.

    `end` is the size that was listed, so that bytes appended while the file is hashed do not count.
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
    """Whether an open file that was read to its end still has the hashed content, perhaps with more appended.

    Files of an object store are not read again: its client raises an error if an object is replaced.
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
    """Whether a line end is just before or after offset `size`; also in UTF-16 and UTF-32."""
    with location.open("rb") as content:
        content.seek(max(size - 4, 0))
        before, after = content.read(min(size, 4)), content.read(4)
    return before.rstrip(b"\0").endswith((b"\n", b"\r")) or after.lstrip(b"\0").startswith((b"\n", b"\r"))


def _placeholder(file: LakeFile) -> Checkpoint:
    """Return a stand-in checkpoint for a file that has no row in audit.file yet."""
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
    """Whether a source has entities that are computed from what other sources have loaded."""
    try:
        return read_source(name, settings.sources).follows_star
    except DeclarationError:
        # The run that reads it raises the error.
        return False


def landed_feeds(settings: Settings) -> list[str]:
    """Return the names of declared feeds whose landing folder exists; those that follow the star come last.

    Raises:
        SettingsError: DWH_SOURCES names no folder, or the lake cannot be opened.
    """
    names: list[str] = []
    followers: list[str] = []
    for name in declared_feeds(settings.sources):
        try:
            source = read_source(name, settings.sources)
        except DeclarationError:
            # The run that reads it raises the error.
            names.append(name)
            continue
        try:
            is_landed = lake.what_is_missing(landing_folder(settings.lake, source)) is None
        except (LakeError, OSError):
            # So does it for a lake that cannot be reached, which keeps no database from being loaded.
            is_landed = True
        if is_landed:
            (followers if source.follows_star else names).append(name)
    return [*names, *followers]
