"""Names of rotated logs: access.log.1, access.log.2.gz, access.log-20261120, access-20261120.log."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

# Separates the path of an archive from the name of its member: logs.zip!access.log
MEMBER: Final = "!"

_COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst|lz4|z)$", re.IGNORECASE)
_DATE = re.compile(r"[._-](\d{4}-?\d\d-?\d\d([T_.-]?\d\d([:_.-]?\d\d){0,2})?|\d{10})(?=$|\.)")
_NUMBER = re.compile(r"\.(\d{1,4}|old)$")


@dataclass(frozen=True)
class _Name:
    """The parts of a name; `stem` is the name before any rotation."""

    folder: str
    stem: str
    number: int | None
    date: str | None
    is_compressed: bool


def may_become(before: str, after: str) -> bool:
    """Whether rotation may have renamed `before` to `after`, in its folder or one below or above it."""
    old, new = _parsed(before), _parsed(after)
    if old.stem != new.stem or not _are_close(old.folder, new.folder):
        return False
    # Unrotated names in different folders do not count: each server may have a folder with an access.log.
    if old.folder != new.folder and (new.number, new.date) == (None, None):
        return False
    if old.is_compressed and not new.is_compressed:
        return False
    if (old.number, old.date) == (new.number, new.date):
        return new.is_compressed > old.is_compressed
    if old.date != new.date:
        return old.date is None and old.number is None
    return new.number is not None and (old.number is None or new.number > old.number)


def may_be_copy(one: str, other: str) -> bool:
    """Whether both names may exist at once during rotation: while a log is compressed, or with copytruncate."""
    for original, copy in ((one, other), (other, one)):
        old, new = _parsed(original), _parsed(copy)
        if not may_become(original, copy):
            continue
        is_only_compressed = (old.number, old.date, old.folder) == (new.number, new.date, new.folder)
        was_never_rotated = old.number is None and old.date is None and not old.is_compressed
        if is_only_compressed or (was_never_rotated and (new.number, new.date) != (None, None)):
            return True
    return False


def _parsed(path: str) -> _Name:
    # Treat an archive as a folder of compressed files.
    folder, _, name = path.replace(MEMBER, "/").rpartition("/")
    bare = _COMPRESSED.sub("", name)
    number = _NUMBER.search(bare)
    without_number = _NUMBER.sub("", bare)
    date = _DATE.search(without_number)
    return _Name(
        folder,
        _DATE.sub("", without_number),
        None if number is None else 0 if number[1] == "old" else int(number[1]),
        None if date is None else date[1],
        bare != name or MEMBER in path,
    )


def _are_close(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
