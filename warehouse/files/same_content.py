"""Recognize a copy by content alone: only content so long and varied that no two servers could write it counts."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warehouse.files.content import ContentReader
from warehouse.files.lake import reading
from warehouse.files.locations import Location

# Idle servers write identical logs (health checks in the same seconds): many lines, but of few kinds.
_LEAST_BYTES: Final = 64 << 10
_LEAST_KINDS: Final = 20
# Bytes at the beginning of a file in which kinds of lines are counted.
_COUNTED: Final = 1 << 20
_READ: Final = 1 << 20
_DIGITS = re.compile(rb"\d+")


@dataclass(frozen=True)
class ContentPart:
    """A loaded piece of a file: its place and its CRC-32 (None if unknown)."""

    byte_offset: int
    byte_count: int
    content_crc32: int | None


def begins_with(location: Location, parts: Sequence[ContentPart]) -> bool:
    """Whether a file begins with exactly the content of these parts, in their order."""
    with reading(location) as content:
        for part in parts:
            # Allow a line end between parts: one that was written after its line had been loaded is in no part.
            gap = part.byte_offset - content.position
            if gap > 2 or content.read(gap).strip(b"\r\n"):
                return False
            if part.content_crc32 is None or part.content_crc32 != _crc32(content, part.byte_count):
                return False
    return bool(parts)


def is_one_of_a_kind(location: Location, byte_count: int) -> bool:
    """Whether a file's first `byte_count` bytes are many, with many lines that differ in more than digits."""
    with reading(location) as content:
        text = content.read(min(byte_count, _COUNTED))
    kinds = {_DIGITS.sub(b"", line) for line in text.split(b"\n")}
    return len(text) >= _LEAST_BYTES and len(kinds) >= _LEAST_KINDS


def _crc32(content: ContentReader, byte_count: int) -> int | None:
    """Return the CRC-32 of the next bytes; None if there are fewer."""
    checksum, left = 0, byte_count
    while left and (piece := content.read(min(_READ, left))):
        checksum = zlib.crc32(piece, checksum)
        left -= len(piece)
    return None if left else checksum
