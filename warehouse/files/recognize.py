"""Recognize a file's compression, encoding and kind by its first bytes."""

from dataclasses import dataclass, field

from warehouse.files.content import HEAD_BYTES, ContentReader
from warehouse.files.kinds import ARCHIVES, Kind, kind_of
from warehouse.files.locations import Location


@dataclass(frozen=True)
class Recognized:
    """Compression, encoding and kind of a file. `head` is its first 64 KB as decompressed UTF-8 text."""

    kind: Kind
    # gzip, bzip2, xz, zstd or lz4; several if it was compressed repeatedly, the outermost first.
    compression: tuple[str, ...]
    # UTF-8, UTF-16-LE …, with a note about a byte order mark or CR line ends.
    encoding: str
    # Why a compressed file cannot be read to its end, if its first bytes show it.
    fault: str | None
    head: bytes = field(repr=False)

    @property
    def is_archive(self) -> bool:
        """Whether it holds several files."""
        return self.kind in ARCHIVES

    def __str__(self) -> str:
        return f"{self.kind}{''.join(f', compressed by {name}' for name in self.compression)}"


def recognize(location: Location) -> Recognized:
    """Recognize a file by its first bytes, whatever its name.

    Raises:
        OSError: it cannot be read.
    """
    with ContentReader(location) as content:
        return recognized(content)


def recognized(content: ContentReader) -> Recognized:
    """Recognize an open file from which nothing has been read. May read more of it."""
    head = content.head
    # Skip NULs at the beginning: after copytruncate a server that does not append leaves a gap up to its old offset.
    while head and not content.is_compressed and not head.strip(b"\0"):
        head = content.read(HEAD_BYTES)
    return Recognized(
        kind_of(head or content.head), content.compression, str(content.encoding), content.fault, head
    )
