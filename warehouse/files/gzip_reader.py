"""Reads plain and gzipped files; of a damaged one, everything before the damage."""

import zlib
from typing import IO

from warehouse.files.locations import Location

_GZIP = b"\x1f\x8b"
_READ = 1 << 20
_SALVAGE = 64


class ContentReader:
    """The decompressed bytes of a plain or gzipped file (recognized by its content, not by its name).

    If a compressed file is cut off or damaged, its content ends there, and `fault` says why.
    """

    def __init__(self, location: Location) -> None:
        self._file: IO[bytes] = location.open("rb")
        self.is_gzip = self._file.read(2) == _GZIP
        self._file.seek(0)
        self.position = 0
        self.fault: str | None = None
        self._inflate = zlib.decompressobj(31)
        self._decompressed = b""
        self._rest = b""

    def __enter__(self) -> "ContentReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def readinto(self, room: memoryview) -> int:
        """Fill `room`; fewer bytes only at the end."""
        if not self.is_gzip:
            count = 0
            while count < len(room) and (got := self._file.readinto(room[count:])):  # type: ignore[attr-defined]
                count += got
            self.position += count
            return count
        count = 0
        while count < len(room):
            if not self._decompressed:
                self._decompressed = self._more()
                if not self._decompressed:
                    break
            piece = self._decompressed[: len(room) - count]
            room[count : count + len(piece)] = piece
            self._decompressed = self._decompressed[len(piece) :]
            count += len(piece)
        self.position += count
        return count

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        room = bytearray(size)
        return bytes(room[: self.readinto(memoryview(room))])

    def skip_to(self, position: int) -> None:
        """Go forward to a position; in a plain file also back."""
        if not self.is_gzip:
            self._file.seek(position)
            self.position = position
            return
        while self.position < position and self.read(min(_READ, position - self.position)):
            pass

    def _more(self) -> bytes:
        """The next decompressed bytes; none at the end."""
        while self.fault is None:
            raw = self._rest or self._file.read(_READ)
            self._rest = b""
            if not raw:
                if not self._inflate.eof:
                    self.fault = "the compressed file breaks off: its end is missing"
                return b""
            if self._inflate.eof:
                raw = raw.lstrip(b"\0")
                if not raw:
                    continue
                # One gzip member after another is one file.
                self._inflate = zlib.decompressobj(31)
            before = self._inflate.copy()
            try:
                content = self._inflate.decompress(raw, _READ)
            except zlib.error as error:
                self.fault = f"the compressed file is damaged: {error}"
                return _salvage(before, raw)
            self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            if content:
                return content
        return b""


def _salvage(inflate: "zlib._Decompress", raw: bytes) -> bytes:
    """Decompress what comes before the damage."""
    content = b""
    try:
        for start in range(0, len(raw), _SALVAGE):
            content += inflate.decompress(raw[start : start + _SALVAGE])
    except zlib.error:
        pass
    return content
