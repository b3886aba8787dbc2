"""Recognizes a file by its first bytes: its compression, its encoding, and what it looks like."""

from dataclasses import dataclass, field

from warehouse.files.content import HEAD_BYTES, ContentReader
from warehouse.files.kinds import ARCHIVES, Kind, kind_of
from warehouse.files.locations import Location


@dataclass(frozen=True)
class Recognized:
    """What a file is; `head` is the beginning of its text as UTF-8, up to 64 KB, decompressed."""

    kind: Kind
    # The outermost first: gzip, bzip2, xz, zstd, lz4.
    compression: tuple[str, ...]
    # UTF-8, UTF-16-LE …, with what else is unusual of it.
    encoding: str
    # Why a compressed file cannot be read to the end, if that is seen at its beginning.
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
    """What an open file is, of which nothing has been read; it may be read on for that."""
    head = content.head
    # A server that goes on writing where it was, in a file that rotation has emptied, leaves a gap at the beginning.
    while head and not content.is_compressed and not head.strip(b"\0"):
        head = content.read(HEAD_BYTES)
    return Recognized(
        kind_of(head or content.head), content.compression, str(content.encoding), content.fault, head
    )
