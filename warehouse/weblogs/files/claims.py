"""Claims of files, so that several loaders can share a lake: advisory locks, which end with the loader's session."""

import zlib
from collections.abc import Collection, Iterator, Sequence

import psycopg

from warehouse.db.locks import free_files, try_files
from warehouse.files import lake
from warehouse.files.lake import FINGERPRINT_BYTES, Catalog, Checkpoint, FileTask, LakeFile
from warehouse.files.locations import Location
from warehouse.weblogs.files.checkpoints import FEED

# A claim is this share of the pending bytes, so that other loaders find files until the end; but not so much that it is
# held for long, nor so little that listing files costs more than loading them.
_SHARE = 8
_MAX_BYTES, _MIN_BYTES = 256 << 20, 1 << 20


class Claims:
    """The files of one load, claimed a few at a time by locks on `connection`, which must last until they are released.

    A file is locked by its path and by its first line: two files with the same beginning may be copies, or one that was
    renamed, and never go to two loaders at once. All files whose first line has no end yet go to one loader.

    With `is_exclusive` false nothing is locked: for a dry run, which must not keep loaders from files.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        landing: Location,
        ignore: Sequence[str],
        only: Collection[str] | None = None,
        *,
        is_exclusive: bool = True,
    ) -> None:
        self._connection, self._landing, self._ignore = connection, landing, ignore
        # The paths to load, whether or not they are loaded already.
        self._only, self._is_exclusive = only, is_exclusive
        self._seen: set[str] = set()
        # Locks to release after the commit.
        self._done: list[int] = []
        # Checkpoints that the next commit will write.
        self._uncommitted: dict[int, Checkpoint] = {}
        self._catalog = Catalog((), ())
        # Files that were unchanged when the load began; files that other loaders had at the last claim.
        self.unchanged: int | None = None
        self.claimed_by_others = 0

    def pending(self) -> Iterator[FileTask]:
        """Claim files to load, one after another, until all the others are loaded or claimed by other loaders."""
        while claimed := self._claim():
            for file, keys in claimed:
                if _UNFINISHED in keys and _keys(file) != keys:
                    # The line has its end by now, and another loader may have a copy: claim the file again.
                    self._seen.discard(file.path)
                    self._done += keys
                    continue
                task = self._catalog.task(file)
                if task.state != "unchanged" or self._only is not None:
                    yield task
                self._done += keys

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
        known = [
            one for one in lake.checkpoints(self._connection, FEED) if one.file_id not in self._uncommitted
        ]
        return Catalog(files, [*known, *self._uncommitted.values()])

    def _claim(self) -> list[tuple[LakeFile, list[int]]]:
        """The next files, each with its lock keys."""
        files = lake.discover(self._landing, self._ignore)
        catalog = self._read_catalog(files)
        if self.unchanged is None:
            self.unchanged = sum(map(catalog.is_unchanged, files))
        # Files before their copies, so that lines stay with those that had them first.
        waiting = [
            file
            for file in sorted(files, key=catalog.is_copy_or_new)
            if file.path not in self._seen
            and (not catalog.is_unchanged(file) if self._only is None else file.path in self._only)
        ]
        size = sum(file.size_bytes for file in waiting) // _SHARE
        size = min(max(size, _MIN_BYTES), _MAX_BYTES)
        claimed: list[tuple[LakeFile, list[int]]] = []
        self.claimed_by_others = 0
        for file in waiting:
            keys = _keys(file)
            if not self._lock(keys):
                self.claimed_by_others += 1
                continue
            self._seen.add(file.path)
            claimed.append((file, keys))
            size -= file.size_bytes
            if size <= 0:
                break
        if claimed:
            # Only under the locks is it certain what other loaders have loaded of them.
            self._catalog = self._read_catalog(files)
        return claimed

    def _lock(self, keys: Sequence[int]) -> bool:
        return not self._is_exclusive or try_files(self._connection, keys)


def _keys(file: LakeFile) -> list[int]:
    """Lock keys of a file; two files that share a key by chance only wait for each other."""
    with lake.reading(file.location) as content:
        head = content.read(FINGERPRINT_BYTES)
    keys = [_key(f"path {file.path}".encode())]
    if b"\n" in head or len(head) == FINGERPRINT_BYTES:
        keys.append(_key(b"line " + head.partition(b"\n")[0]))
    elif head:
        keys.append(_UNFINISHED)
    return keys


def _key(name: bytes) -> int:
    return zlib.crc32(f"{FEED} ".encode() + name) - (1 << 31)


_UNFINISHED = _key(b"unfinished first line")
