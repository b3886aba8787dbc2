"""Records of a file: position, original bytes, and the parsed fields or the problem that prevents parsing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

# Larger records are not parsed: PostgreSQL's values end at 1 GB, and memory would run out before that.
MOST_RECORD_BYTES: Final = 64 << 20
# The quarantine keeps this much of a bad record; the bad-records path has all of it.
MOST_QUARANTINED_BYTES: Final = 1 << 20
# A block ends after this many records, or with the record that exceeds this size.
_BLOCK_RECORDS: Final = 2000
_BLOCK_BYTES: Final = 1 << 20


class Number(str):
    """A number as it is written. It is converted only to its column's type, so that no digit is lost."""

    __slots__ = ()


class Problem(NamedTuple):
    """Why a record cannot be loaded: the broken rule, and the details."""

    rule: str
    reason: str


class Record(NamedTuple):
    """One record. In a JSON array `line` is the position of the element, in a sheet the number of the row.

    `text` is the raw record as it was decoded, where that is not UTF-8.
    """

    line: int
    byte_offset: int
    raw: bytes
    fields: dict[str, Any] | None
    problem: Problem | None = None
    text: str | None = None


class RawBlock(NamedTuple):
    """Consecutive lines of a file, one record each. `line` is the number of lines before them."""

    line: int
    byte_offset: int
    # Without the last line's end.
    content: bytes
    # Whether the last line has no line end, so that it may be incomplete.
    is_last: bool = False
    # If not 0, the content is the beginning of a single line of this many bytes, too many to be parsed.
    too_large: int = 0


def in_blocks(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """Group records into blocks of limited size."""
    block: list[Record] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record.raw)
        if size > _BLOCK_BYTES or len(block) == _BLOCK_RECORDS:
            yield block
            block, size = [], 0
    if block:
        yield block


def printable(record: Record) -> str:
    """Return the raw record for the quarantine, with what cannot be decoded escaped as \\xNN."""
    if record.text is None:
        text = record.raw[:MOST_QUARANTINED_BYTES].decode("utf-8", "backslashreplace")
    else:
        text = record.text[:MOST_QUARANTINED_BYTES].encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\x00")
