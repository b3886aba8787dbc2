"""Decompress files (gzip, bzip2, xz, zstd, lz4). Everything before damage in a file is still returned."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

_READ = 1 << 20
# Bytes to decompress at a time near damage, in order to get everything before it.
_SALVAGE = 64
# Predicates of a sentence whose subject is the compressed file.
_BREAKS_OFF = "breaks off: its end is missing"
_IS_DAMAGED = "is damaged: "
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    **dict.fromkeys(_ZSTD_SKIPPABLE, "zstd"),
}


class Bytes(Protocol):
    """A readable source of bytes: a file, or another layer of decompression."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


def compression_of(head: bytes) -> str | None:
    """Return the compression of a file that begins with these bytes; None if it is not compressed."""
    compression = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    # Text may begin with BZh, too: require the magic of the first block, or of the end of an empty file.
    if compression == "bzip2" and head[4:10] not in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return None
    return compression


class Decompressed:
    """Reader of the decompressed bytes of `source`. If they end early, `fault` has the reason."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._ahead = b""
        self._returned_bytes = 0
        self.fault: str | None = None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        content = self._ahead or self._more()
        self._ahead = content[size:]
        return content[:size]

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes (fewer at the end) without consuming them."""
        while len(self._ahead) < size and (content := self._more()):
            self._ahead += content
        return self._ahead[:size]

    def _more(self) -> bytes:
        content = self._next()
        self._returned_bytes += len(content)
        return content

    def _next(self) -> bytes:
        """Return the next decompressed bytes; none at the end."""
        raise NotImplementedError

    def _decompress_again(self) -> bytes:
        """Return the bytes before the damage that were not returned yet, if `source` can be read again.

        A decompressor that meets damage drops what it has decompressed in the same call: so feed it little at a time.
        """
        if not hasattr(self._source, "seek"):
            return b""
        self._source.seek(0)
        again = type(self)(_Pieces(self._source))
        known = self._returned_bytes
        while known and (content := again.read(min(known, _READ))):
            known -= len(content)
        again._take_little()
        pieces = []
        while content := again.read(_READ):
            pieces.append(content)
        return b"".join(pieces)

    def _take_little(self) -> None:
        """Return few bytes at a time from now on, if a reader loses those that it returns at once with damaged ones."""


class _Pieces:
    """A source that is read a few bytes at a time."""

    def __init__(self, source: Bytes) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        return self._source.read(min(size, _SALVAGE))


class _Streams(Decompressed):
    """Concatenated compressed streams, each decompressed by an object of the standard library."""

    def __init__(self, source: Bytes) -> None:
        super().__init__(source)
        self._raw = b""
        self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def _decompress(self, raw: bytes) -> tuple[bytes, bytes]:
        """Return decompressed bytes, and the remaining compressed ones."""
        raise NotImplementedError

    def _is_at_end(self) -> bool:
        raise NotImplementedError

    def _salvage(self, raw: bytes) -> bytes:
        """Return the decompressed bytes before the damage in `raw`."""
        return self._decompress_again()

    def _next(self) -> bytes:
        while self.fault is None:
            raw = self._raw or self._source.read(_READ)
            self._raw = b""
            if not raw and not self._needs_no_input():
                if not self._is_at_end():
                    self.fault = _BREAKS_OFF
                return b""
            if self._is_at_end():
                raw = raw.lstrip(b"\0")
                if not raw:
                    continue
                self._begin()
            try:
                content, self._raw = self._decompress(raw)
            except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
                self.fault = f"{_IS_DAMAGED}{error}"
                return self._salvage(raw)
            if content:
                return content
        return b""

    def _needs_no_input(self) -> bool:
        return False


class _Gzip(_Streams):
    def _begin(self) -> None:
        self._inflate = zlib.decompressobj(31)

    def _decompress(self, raw: bytes) -> tuple[bytes, bytes]:
        self._before = self._inflate.copy()
        content = self._inflate.decompress(raw, _READ)
        return content, self._inflate.unconsumed_tail or self._inflate.unused_data

    def _is_at_end(self) -> bool:
        return self._inflate.eof

    def _salvage(self, raw: bytes) -> bytes:
        content = b""
        try:
            for start in range(0, len(raw), _SALVAGE):
                content += self._before.decompress(raw[start : start + _SALVAGE])
        except zlib.error:
            pass
        return content


class _Blocks(_Streams):
    """bzip2 and xz: they consist of blocks of about a megabyte, and a damaged block is lost completely."""

    _new: Callable[[], Any]

    def _begin(self) -> None:
        self._decompressor = type(self)._new()

    def _decompress(self, raw: bytes) -> tuple[bytes, bytes]:
        content = self._decompressor.decompress(raw, _READ)
        return content, self._decompressor.unused_data if self._decompressor.eof else b""

    def _is_at_end(self) -> bool:
        return bool(self._decompressor.eof)

    def _needs_no_input(self) -> bool:
        return not self._decompressor.eof and not self._decompressor.needs_input


class _Bzip2(_Blocks):
    _new = bz2.BZ2Decompressor


class _Xz(_Blocks):
    _new = lzma.LZMADecompressor


class _KeptOpen:
    """A source whose `close` does nothing: pyarrow's stream closes its source, but the file is still needed."""

    closed = False

    def __init__(self, source: Bytes) -> None:
        self.read = source.read

    def close(self) -> None:
        pass


class _Arrow(Decompressed):
    """zstd and lz4, decompressed by pyarrow."""

    _codec: str

    def __init__(self, source: Bytes) -> None:
        import pyarrow

        super().__init__(source)
        raw = pyarrow.PythonFile(_KeptOpen(source), mode="r")
        self._stream = pyarrow.CompressedInputStream(raw, self._codec)
        self._size = 1 << 16

    def _take_little(self) -> None:
        self._size = 1

    def _next(self) -> bytes:
        if self.fault is not None:
            return b""
        try:
            return bytes(self._stream.read(self._size))
        except OSError as error:
            self.fault = _BREAKS_OFF if "Truncated" in str(error) else f"{_IS_DAMAGED}{error}"
            return self._decompress_again()


class _Zstd(_Arrow):
    _codec = "zstd"


class _Lz4(_Arrow):
    _codec = "lz4"


_DECOMPRESSORS: Final[dict[str, type[Decompressed]]] = {
    "gzip": _Gzip,
    "bzip2": _Bzip2,
    "xz": _Xz,
    "zstd": _Zstd,
    "lz4": _Lz4,
}


def decompressed(compression: str, source: Bytes) -> Decompressed:
    """Return a reader of the decompressed bytes of `source`, which has this compression."""
    return _DECOMPRESSORS[compression](source)
