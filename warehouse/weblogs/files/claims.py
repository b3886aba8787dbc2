"""Files shared out among loaders: each has those that it works on to itself, by locks that die with it."""

import zlib
from collections.abc import Collection, Iterator, Sequence

import psycopg

from warehouse.db.locks import free_files, try_files
from warehouse.files import lake
from warehouse.files.lake import FINGERPRINT_BYTES, Catalog, Checkpoint, LakeFile, Work
from warehouse.files.locations import Location
from warehouse.weblogs.files.checkpoints import FEED

# A claim is this share of the bytes that wait, so that others find work until the end; but not so much that it is held
# for long, nor so little that looking costs more than loading.
_SHARE = 8
_MOST_BYTES, _LEAST_BYTES = 256 << 20, 1 << 20


class Claims:
    """The files of one load: claimed a few at a time on `connection`, which must hold until they are released.

    A file is locked by its path and by its first line: two files that begin alike may be copies or one renamed, and
    are never with two loaders at once. Of files whose first line has no end yet, one loader has all.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        landing: Location,
        ignore: Sequence[str],
        only: Collection[str] | None = None,
    ) -> None:
        self._connection, self._landing, self._ignore = connection, landing, ignore
        # Paths that are wanted, whether or not they are loaded already.
        self._only = only
        self._seen: set[str] = set()
        # Locks of files that are loaded or were found to be; those of the others are held on to.
        self._done: list[int] = []
        # Of files that were loaded and wait for the commit.
        self._pending: dict[int, Checkpoint] = {}
        self._catalog = Catalog((), ())
        # Files found unchanged at the first look; files that others had at the last one.
        self.unchanged: int | None = None
        self.elsewhere = 0

    def works(self) -> Iterator[Work]:
        """Files to load, one after another, until all that are left are loaded or with others."""
        while claimed := self._claim():
            for file, keys in claimed:
                if _UNFINISHED in keys and _keys(file) != keys:
                    # The line has its end by now, and others may be at a copy: it is claimed once more.
                    self._seen.discard(file.path)
                    self._done += keys
                    continue
                work = self._catalog.work(file)
                if work.state != "unchanged" or self._only is not None:
                    yield work
                self._done += keys

    def loaded(self, file: LakeFile, checkpoint: Checkpoint) -> None:
        """`file` is loaded as far as `checkpoint` says, but for the commit: copies of it may follow."""
        self._catalog.loaded(file, checkpoint)
        self._pending[checkpoint.file_id] = checkpoint

    def release(self) -> None:
        """After the commit: files that were loaded to their end are free again."""
        free_files(self._connection, self._done)
        self._done.clear()
        self._pending.clear()

    def _look(self, files: Sequence[LakeFile]) -> Catalog:
        known = [one for one in lake.checkpoints(self._connection, FEED) if one.file_id not in self._pending]
        return Catalog(files, [*known, *self._pending.values()])

    def _claim(self) -> list[tuple[LakeFile, list[int]]]:
        """The next files, each with its lock keys."""
        files = lake.discover(self._landing, self._ignore)
        catalog = self._look(files)
        if self.unchanged is None:
            self.unchanged = sum(map(catalog.is_unchanged, files))
        # Files before their copies, so that lines stay with those that had them first.
        waiting = [
            file
            for file in sorted(files, key=catalog.is_copy_or_new)
            if file.path not in self._seen
            and (not catalog.is_unchanged(file) if self._only is None else file.path in self._only)
        ]
        wanted = sum(file.size_bytes for file in waiting) // _SHARE
        wanted = min(max(wanted, _LEAST_BYTES), _MOST_BYTES)
        claimed: list[tuple[LakeFile, list[int]]] = []
        self.elsewhere = 0
        for file in waiting:
            keys = _keys(file)
            if not self._take(keys):
                self.elsewhere += 1
                continue
            self._seen.add(file.path)
            claimed.append((file, keys))
            wanted -= file.size_bytes
            if wanted <= 0:
                break
        if claimed:
            # What others had loaded of them is known once the locks are ours.
            self._catalog = self._look(files)
        return claimed

    def _take(self, keys: Sequence[int]) -> bool:
        return try_files(self._connection, keys)


def _keys(file: LakeFile) -> list[int]:
    """Lock keys of a file; names that share a key by chance only wait for each other."""
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
