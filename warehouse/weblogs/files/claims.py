"""Claims of files, so that several loaders can share a lake: advisory locks, which end with the loader's session."""

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import psycopg

from warehouse.db.locks import free_files, try_files
from warehouse.files import lake
from warehouse.files.archive import DEFAULT_LIMITS, Limits, Member, unpacked
from warehouse.files.catalog import Catalog
from warehouse.files.content import ContentReader
from warehouse.files.lake import (
    FINGERPRINT_BYTES,
    MAKE_READABLE,
    NOT_READ,
    RENAME,
    REPLACED,
    Checkpoint,
    FileTask,
    FileUnreadable,
    LakeFile,
    Landing,
    UnreadFile,
)
from warehouse.files.locations import Location
from warehouse.files.recognize import Recognized, recognized
from warehouse.files.rotation import MEMBER
from warehouse.weblogs.files.checkpoints import FEED, read_parts

# A loader claims an eighth of the pending bytes at a time, so that other loaders find files until the end: at most
# _MAX_BYTES, as more would be held for long, and at least _MIN_BYTES, as each claim lists the folder.
_SHARE = 8
_MAX_BYTES, _MIN_BYTES = 256 << 20, 1 << 20


@dataclass(frozen=True)
class _Claim:
    """A file to lock, its lock keys, and what kind of file it is."""

    file: LakeFile
    keys: Sequence[int]
    recognized: Recognized


class Claims:
    """The files of one load, claimed a few at a time by locks on `connection`, which must last until they are released.

    A file is locked by its path and by its first line: two files with the same beginning may be copies, or one that was
    renamed, and never go to two loaders at once. All files whose first line has no end yet go to one loader. An archive
    is claimed as a whole.

    A path for which `is_named` is true is loaded even if its name matches a pattern of `ignore`. An unchanged archive
    is unpacked again if it has a file that was not read, and that `is_declared` now or is no longer ignored.

    With `is_exclusive` false nothing is locked: a dry run must not keep loaders from files.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        landing: Location,
        ignore: Sequence[str],
        only: Collection[str] | None = None,
        *,
        is_named: Callable[[str], bool] | None = None,
        is_declared: Callable[[str], bool] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        is_exclusive: bool = True,
    ) -> None:
        self._connection, self._landing, self._ignore, self._is_named = connection, landing, ignore, is_named
        self._is_declared = is_declared
        # Paths to load even if they are loaded already; None: all that have changed.
        self._only, self._limits, self._is_exclusive = only, limits, is_exclusive
        self._seen: set[str] = set()
        # Archives with a copy of a file that another loader has claimed: tried again later.
        self._put_off: set[str] = set()
        # Locks to release after the commit.
        self._done: list[int] = []
        # Checkpoints that the next commit will write.
        self._uncommitted: dict[int, Checkpoint] = {}
        self._listing = Landing((), ())
        self._known: list[Checkpoint] = []
        self._catalog = Catalog((), ())
        self._noted: dict[str, UnreadFile] = {}
        # Archives that have not changed, with files that the declaration now makes readable.
        self._readable_now: frozenset[str] = frozenset()
        # Files that were unchanged when the load began; files that other loaders had at the last claim.
        self.unchanged: int | None = None
        self.claimed_by_others = 0

    @property
    def known(self) -> Sequence[Checkpoint]:
        """Checkpoints of all files at the last claim."""
        return self._known

    @property
    def unread(self) -> list[UnreadFile]:
        """Files of the landing folder that are not read, by path, as far as this and earlier loads have seen them."""
        unread = {one.path: one for one in self._listing.unread} | self._noted
        listed = {file.path for file in self._listing.files}
        for known in self._known:
            # This load has not looked at it: another loader has it, or it is in an archive that has not changed.
            path = known.path if known.path in listed else known.path.partition(MEMBER)[0]
            if known.status in NOT_READ and path in listed and path not in self._seen:
                unread.setdefault(known.path, known.unread)
        return [unread[path] for path in sorted(unread)]

    def note(self, unread: UnreadFile) -> None:
        """Note a file that is not read."""
        self._noted[unread.path] = unread

    def pending(self) -> Iterator[FileTask]:
        """Claim files to load, one after another, until all the others are loaded or claimed by other loaders."""
        self._put_off.clear()
        while claimed := self._claim():
            for claim in claimed:
                if _UNFINISHED in claim.keys and (now := self._look(claim.file)) and now.keys != claim.keys:
                    # Its first line has got its end meanwhile, and another loader may have a copy: claim it again.
                    self._seen.discard(claim.file.path)
                elif claim.recognized.is_archive:
                    yield from self._files_of(claim)
                else:
                    yield from self._task(claim)
                self._done += claim.keys

    def loaded(self, file: LakeFile, checkpoint: Checkpoint) -> None:
        """Record that a file will be loaded as far as `checkpoint` by the next commit: copies of it may follow."""
        self._catalog.loaded(file, checkpoint)
        self.record(checkpoint)

    def record(self, checkpoint: Checkpoint) -> None:
        """Record a checkpoint that the next commit will write."""
        self._uncommitted[checkpoint.file_id] = checkpoint

    def release(self) -> None:
        """After a commit, release the files that are done. Without locks nothing was committed, and all is kept."""
        if self._is_exclusive:
            free_files(self._connection, self._done)
            self._done.clear()
            self._uncommitted.clear()

    def _read_catalog(self, files: Sequence[LakeFile]) -> Catalog:
        self._known = lake.checkpoints(self._connection, FEED)
        known = [one for one in self._known if one.file_id not in self._uncommitted]
        return Catalog(files, [*known, *self._uncommitted.values()], partial(read_parts, self._connection))

    def _task(self, claim: _Claim) -> Iterator[FileTask]:
        try:
            task = self._catalog.task(claim.file)
        except FileUnreadable as error:
            # A file that was replaced meanwhile is found again by its new name, if rotation has renamed it.
            if error.reason != REPLACED:
                self.note(UnreadFile(claim.file.path, "unread", error.reason, error.hint))
            return
        if task.state != "unchanged" or self._only is not None:
            yield replace(task, recognized=claim.recognized)

    def _files_of(self, archive: _Claim) -> Iterator[FileTask]:
        """Yield the files of an archive, then the archive itself."""
        file = archive.file
        stamp = (file.size_bytes, file.modified_ns)
        with unpacked(file.location, self._limits) as content:
            claims = [
                claim for member in content.members if (claim := self._member(file, member)) is not None
            ]
            if not self._lock([key for claim in claims for key in claim.keys]):
                self._seen.discard(file.path)
                self._put_off.add(file.path)
                return
            self._catalog.add([claim.file for claim in claims])
            for claim in claims:
                yield from self._task(claim)
                self._done += claim.keys
        if content.fault is not None and not content.members:
            self.note(UnreadFile(file.path, "unread", content.fault, content.hint, stamp))
            return
        fault = content.fault and f"the archive {content.fault}"
        yield replace(self._catalog.task(file), is_archive=True, fault=fault)

    def _member(self, archive: LakeFile, member: Member) -> _Claim | None:
        """Make the claim of a file in an archive; None if it is not read."""
        path = f"{archive.path}{MEMBER}{member.name}"
        if self._only is not None and path not in self._only:
            return None
        if ignored := self._ignored(member.name, path):
            self.note(UnreadFile(path, "ignored", f"names like {ignored[1]} are ignored", RENAME))
            return None
        if member.location is None:
            self.note(UnreadFile(path, "unread", member.fault or "", member.hint))
            return None
        return self._look(
            LakeFile(path, member.location, member.size_bytes, archive.modified_ns, is_final=True)
        )

    def _ignored(self, name: str, path: str) -> tuple[int, str] | None:
        """Find the first ignored part of a name within an archive: the number of parts up to it, and the pattern."""
        parts = name.split("/")
        ignored = lake.ignored_part(parts, self._ignore)
        is_whole = ignored is not None and ignored[0] == len(parts)
        return None if is_whole and self._is_named is not None and self._is_named(path) else ignored

    def _archives_to_read_again(self) -> frozenset[str]:
        """Find archives with a file that was not read, but that can be by what is declared now."""
        archives = set()
        for known in self._known:
            archive, is_member, name = known.path.partition(MEMBER)
            if not is_member:
                continue
            if known.status == "ignored":
                is_readable = self._ignored(name, known.path) is None
            else:
                is_readable = (
                    known.status == "unrecognized"
                    and self._is_declared is not None
                    and self._is_declared(known.path)
                )
            if is_readable:
                archives.add(archive)
        return frozenset(archives)

    def _claim(self) -> list[_Claim]:
        """Lock the next files, and return them."""
        self._listing = lake.discover(self._landing, self._ignore, self._is_named)
        files = self._listing.files
        catalog = self._read_catalog(files)
        self._readable_now = self._archives_to_read_again()
        if self.unchanged is None:
            self.unchanged = sum(
                catalog.is_unchanged(file) and file.path not in self._readable_now for file in files
            )
        # Files before their copies, so that lines belong to the files that had them first.
        waiting = [
            file
            for file in sorted(files, key=catalog.is_copy_or_new)
            if file.path not in self._seen and self._is_wanted(file, catalog)
        ]
        size = sum(file.size_bytes for file in waiting) // _SHARE
        size = min(max(size, _MIN_BYTES), _MAX_BYTES)
        claimed: list[_Claim] = []
        self.claimed_by_others = len(self._put_off)
        for file in waiting:
            if file.path in self._put_off:
                continue
            claim = self._look(file)
            if claim is None:
                self._seen.add(file.path)
                continue
            if not self._lock(claim.keys):
                self.claimed_by_others += 1
                continue
            self._seen.add(file.path)
            claimed.append(claim)
            size -= file.size_bytes
            if size <= 0:
                break
        if claimed:
            # Other loaders may have loaded them before we got the locks: read the checkpoints again.
            self._catalog = self._read_catalog(files)
        return claimed

    def _is_wanted(self, file: LakeFile, catalog: Catalog) -> bool:
        if self._only is None:
            return not catalog.is_unchanged(file) or file.path in self._readable_now
        return any(path == file.path or path.startswith(f"{file.path}{MEMBER}") for path in self._only)

    def _look(self, file: LakeFile) -> _Claim | None:
        """Recognize a file, and make its claim; None if it is gone or cannot be opened."""
        try:
            with ContentReader(file.location) as content:
                head = content.head[:FINGERPRINT_BYTES]
                return _Claim(file, _keys(file, head), recognized(content))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"cannot be opened: {error.strerror or error}"
            self.note(UnreadFile(file.path, "unread", reason, MAKE_READABLE))
            return None

    def _lock(self, keys: Sequence[int]) -> bool:
        return not self._is_exclusive or try_files(self._connection, keys)


def _keys(file: LakeFile, head: bytes) -> list[int]:
    """Lock keys of a file; two files that share a key by chance only wait for each other."""
    keys = [_key(f"path {file.path}".encode())]
    if b"\n" in head or len(head) == FINGERPRINT_BYTES:
        keys.append(_key(b"line " + head.partition(b"\n")[0]))
    elif head:
        keys.append(_UNFINISHED)
    return keys


def _key(name: bytes) -> int:
    return zlib.crc32(f"{FEED} ".encode() + name) - (1 << 31)


_UNFINISHED = _key(b"unfinished first line")
