"""Unpack zip and tar archives (with any compression) into a temporary folder, with limits against zip bombs."""

import fcntl
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from warehouse.files.compression import Bytes
from warehouse.files.content import ContentReader
from warehouse.files.kinds import TAR
from warehouse.files.lake import LakeError, printable_path
from warehouse.files.locations import Location
from warehouse.files.recognize import recognized

_READ: Final = 1 << 20
_FOLDER, _LOCK = "dwh-unpacked-", "lock"
# Up to this size the ratio does not matter.
_HARMLESS = 64 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of a compressed file's unpacked size: in bytes, and as a multiple of its own size."""

    total_bytes: int = 20 << 30
    ratio: int = 1000

    def fault(self, size_bytes: int, unpacked_bytes: int) -> str | None:
        """Return which limit a file of `size_bytes` exceeds, as a predicate; None below the limits."""
        if unpacked_bytes > self.total_bytes:
            return f"unpacks to more than {self.total_bytes >> 20:,} MB (DWH_UNPACK_MB)"
        if unpacked_bytes > max(self.ratio * size_bytes, _HARMLESS):
            return f"unpacks to more than {self.ratio:,} times its size (DWH_UNPACK_RATIO)"
        return None


UNPACK_YOURSELF: Final = "Unpack it yourself in the landing folder, and move it away."
COPY_AGAIN: Final = "Put a complete copy of the archive there: the next run reads it."
_PUT_FILE_IN: Final = "Put the file itself into the archive, if it should be loaded."
DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name and its unpacked location, or why it is not unpacked and what to do about it."""

    name: str
    location: Path | None
    size_bytes: int = 0
    fault: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Unpacked:
    """The files of an archive. If it could not be read completely, `fault` is the reason, and files may be missing."""

    members: tuple[Member, ...]
    fault: str | None = None
    hint: str = COPY_AGAIN


class _LimitReached(Exception):
    """An archive unpacks to more than the limits allow."""


@contextmanager
def unpacked(location: Location, limits: Limits) -> Iterator[Unpacked]:
    """Unpack an archive into a temporary folder, which is deleted at the end of the block.

    If it exceeds `limits`, the result has a fault and no members.

    Raises:
        LakeError: there is not enough room to unpack it.
        OSError: the archive cannot be read.
    """
    _remove_left_overs()
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as name:
        folder = Path(name)
        draft = folder / f"{_LOCK}.new"
        with draft.open("w") as lock:
            # The lock is held as long as this process lives: later processes remove folders without a lock holder.
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.rename(folder / _LOCK)
            yield _unpack(location, folder, limits)


def _unpack(location: Location, folder: Path, limits: Limits) -> Unpacked:
    target = _Target(folder, location.stat().st_size, limits)
    fault = None
    try:
        with ContentReader(location, as_text=False) as content:
            if recognized(content).kind == TAR:
                fault = _unpack_tar(content, target)
            elif content.is_compressed:
                return Unpacked((), "is a compressed zip archive", UNPACK_YOURSELF)
            else:
                with location.open("rb") as file:
                    fault = _unpack_zip(file, target)
    except _LimitReached as reached:
        return Unpacked((), str(reached), UNPACK_YOURSELF)
    return Unpacked(tuple(target.members), fault)


def _unpack_zip(file: IO[bytes], target: "_Target") -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & 1:
                    target.refuse(info.filename, "is encrypted", UNPACK_YOURSELF)
                    continue
                try:
                    with archive.open(info) as content:
                        target.copy(info.filename, content)
                except NotImplementedError as error:
                    target.refuse(info.filename, f"is compressed otherwise: {error}", UNPACK_YOURSELF)
                except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                    target.refuse(info.filename, f"is damaged: {error}", COPY_AGAIN)
    except zipfile.BadZipFile as error:
        return f"is damaged: {error}"
    return None


def _unpack_tar(content: ContentReader, target: "_Target") -> str | None:
    try:
        with tarfile.open(fileobj=cast(IO[bytes], content), mode="r|") as archive:
            for info in archive:
                if info.isdir():
                    continue
                file = archive.extractfile(info) if info.isfile() else None
                if file is None:
                    target.refuse(info.name, "is a link or a device", _PUT_FILE_IN)
                    continue
                try:
                    is_whole = target.copy(info.name, file, info.size)
                except (tarfile.TarError, EOFError):
                    is_whole = False
                if not is_whole:
                    target.refuse(info.name, "is not all there: the archive breaks off", COPY_AGAIN)
                    return content.fault or "breaks off: its end is missing"
    except (tarfile.TarError, EOFError) as error:
        return content.fault or f"is damaged: {error}"
    return content.fault


class _Target:
    """The folder that an archive is unpacked into. Names in the archive are never used as paths (path traversal)."""

    def __init__(self, folder: Path, size_bytes: int, limits: Limits) -> None:
        self._folder, self._size_bytes, self._limits = folder, size_bytes, limits
        self._unpacked_bytes = 0
        self._names: set[str] = set()
        self.members: list[Member] = []

    def copy(self, name: str, content: Bytes, size_bytes: int | None = None) -> bool:
        """Unpack a file, and add it to the members if it is complete (has `size_bytes`). Returns whether it is."""
        path, size = self._folder / str(len(self.members)), 0
        with path.open("wb") as file:
            while piece := content.read(_READ):
                size += len(piece)
                self._unpacked_bytes += len(piece)
                if fault := self._limits.fault(self._size_bytes, self._unpacked_bytes):
                    raise _LimitReached(fault)
                try:
                    file.write(piece)
                    file.flush()
                except OSError as error:
                    raise LakeError(
                        f"There is no room to unpack an archive in {self._folder.parent}: {error.strerror}.",
                        hint="Set TMPDIR to a folder on a disk with more room.",
                    ) from None
        if is_whole := size_bytes in (None, size):
            self.members.append(Member(self._unique(name), path, size))
        return is_whole

    def refuse(self, name: str, fault: str, hint: str) -> None:
        """Add a file to the members that is not unpacked, with the reason."""
        self.members.append(Member(self._unique(name), None, fault=fault, hint=hint))

    def _unique(self, name: str) -> str:
        # Drop "." parts: `tar -c .` writes ./access.log, and the dot is not a hidden folder.
        parts = (part for part in name.replace("\0", "").split("/") if part not in ("", ".", ".."))
        printable = unique = printable_path("/".join(parts)) or "unnamed"
        number = 1
        while unique in self._names:
            number += 1
            unique = f"{printable}#{number}"
        self._names.add(unique)
        return unique


def _remove_left_overs() -> None:
    """Remove the folders of processes that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError), (left / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
