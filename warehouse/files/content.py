"""Reads a file's text, whatever its compression, encoding and line ends."""

from typing import IO

from warehouse.files.compression import Bytes, Decompressed, compression_of, decompressed
from warehouse.files.encoding import Decoded, Encoding, encoding_of
from warehouse.files.locations import Location

# What a file is judged by.
HEAD_BYTES = 1 << 16
_READ = 1 << 20
# A file that was compressed twice by mistake is read; one that is compressed without end is not.
_MAX_LAYERS = 3


class ContentReader:
    """The text of a file as UTF-8 with \\n at the end of lines; positions are offsets in this text.

    Compression and encoding are recognized by its first bytes, not by its name. A byte order mark of UTF-8 is part of
    the text, those of other encodings are not. If a compressed file is cut off or damaged, its text ends there, and
    `fault` says why.
    """

    def __init__(self, location: Location, *, as_text: bool = True) -> None:
        """Open a file; without `as_text` only its compression is undone."""
        self._as_text = as_text
        self._file: IO[bytes] = location.open("rb")
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        self.position = 0
        self.compression: tuple[str, ...] = ()
        head = self._file.read(HEAD_BYTES)
        self._file.seek(0)
        self._layers: list[Decompressed] = []
        source: Bytes = self._file
        while len(self._layers) < _MAX_LAYERS and (compression := compression_of(head)):
            self._layers.append(layer := decompressed(compression, source))
            self.compression += (compression,)
            source, head = layer, layer.peek(HEAD_BYTES)
        self.encoding = encoding_of(head) if self._as_text else Encoding()
        # The first bytes as text.
        self.head = head
        if self.encoding.is_wide:
            source = Decoded(source, self.encoding)
            self.head = Decoded(_Once(head), self.encoding).read(2 * HEAD_BYTES)
        if self.encoding.has_cr_ends:
            self.head = self.head.replace(b"\r", b"\n")
        self._source = source

    def __enter__(self) -> "ContentReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def raw(self) -> IO[bytes]:
        """The file itself, of which everything up to here has been read."""
        return self._file

    @property
    def is_compressed(self) -> bool:
        """Whether it is compressed: nobody appends to a complete compressed file."""
        return bool(self._layers)

    @property
    def fault(self) -> str | None:
        """What the compressed file does, so that its text breaks off, as 'is damaged: …'; None if it does not."""
        return next((layer.fault for layer in self._layers if layer.fault), None)

    def readinto(self, room: memoryview) -> int:
        """Fill `room`; fewer bytes only at the end."""
        count = 0
        if self._source is self._file:
            while count < len(room) and (got := self._file.readinto(room[count:])):  # type: ignore[attr-defined]
                count += got
        else:
            while count < len(room) and (piece := self._source.read(len(room) - count)):
                room[count : count + len(piece)] = piece
                count += len(piece)
        if self.encoding.has_cr_ends:
            room[:count] = bytes(room[:count]).replace(b"\r", b"\n")
        self.position += count
        return count

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        room = bytearray(size)
        return bytes(room[: self.readinto(memoryview(room))])

    def skip_to(self, position: int) -> None:
        """Go forward to a position; in a plain file also back."""
        if self._source is self._file:
            self._file.seek(position)
            self.position = position
            return
        while self.position < position and self.read(min(_READ, position - self.position)):
            pass


class _Once:
    """Bytes that are read once."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, size: int) -> bytes:
        content, self._content = self._content[:size], self._content[size:]
        return content
