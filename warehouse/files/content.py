"""Read a file as UTF-8 text with any compression, encoding and line ends."""

from typing import IO

from warehouse.files.compression import Bytes, Decompressed, compression_of, decompressed
from warehouse.files.encoding import Decoded, Encoding, encoding_of
from warehouse.files.locations import Location

# Number of bytes by which a file's compression, encoding and kind are recognized.
HEAD_BYTES = 1 << 16
_READ = 1 << 20
# Files that were compressed twice by mistake are read; the limit stops files that decompress to themselves.
_MAX_LAYERS = 3


class ContentReader:
    """A file's text as UTF-8 with \\n line ends; positions are byte offsets in this text.

    Compression and encoding are recognized by the first bytes, not by the file's name. A UTF-8 byte order mark is part
    of the text, those of other encodings are not. If a compressed file is truncated or damaged, its text ends there,
    and `fault` has the reason.
    """

    def __init__(self, location: Location, *, as_text: bool = True) -> None:
        """Open a file. Without `as_text` it is only decompressed."""
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
        # The first bytes, decoded.
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
        """The open file, from which everything up to the present position has been read."""
        return self._file

    @property
    def is_compressed(self) -> bool:
        """Whether the file is compressed. If so, no more lines are appended to it."""
        return bool(self._layers)

    @property
    def fault(self) -> str | None:
        """Why the text of a compressed file ends early, as a predicate such as 'is damaged: …'; None if it does not."""
        return next((layer.fault for layer in self._layers if layer.fault), None)

    def readinto(self, room: memoryview) -> int:
        """Fill `room` with the next bytes, and return their number; it is less than requested only at the end."""
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
        """Return the next `size` bytes; fewer at the end."""
        room = bytearray(size)
        return bytes(room[: self.readinto(memoryview(room))])

    def skip_to(self, position: int) -> None:
        """Move forward to a position, or back (only in an uncompressed UTF-8 file)."""
        if self._source is self._file:
            self._file.seek(position)
            self.position = position
            return
        while self.position < position and self.read(min(_READ, position - self.position)):
            pass


class _Once:
    """A byte string with the interface of a file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, size: int) -> bytes:
        content, self._content = self._content[:size], self._content[size:]
        return content
