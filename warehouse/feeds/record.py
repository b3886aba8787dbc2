"""A record of a file: its place, its bytes as they came, and its fields or why it has none."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

# Larger ones are not read: the text of one value in PostgreSQL ends at 1 GB, and memory before that.
MOST_RECORD_BYTES: Final = 64 << 20
# Of a record that cannot be read, what the quarantine keeps; the bad-records path has all of it.
MOST_QUARANTINED_BYTES: Final = 1 << 20
# A block of records has no more of them, and ends with the record that makes it so large.
_BLOCK_RECORDS: Final = 2000
_BLOCK_BYTES: Final = 1 << 20


class Number(str):
    """A number as it is written: it becomes a number only as the type that its column has."""

    __slots__ = ()


class Problem(NamedTuple):
    """Why a record cannot be read: the rule that it breaks, and the details."""

    rule: str
    reason: str


class Record(NamedTuple):
    """One record; a list's line is its place in it, a sheet's its row."""

    line: int
    byte_offset: int
    raw: bytes
    fields: dict[str, Any] | None
    problem: Problem | None = None


class RawBlock(NamedTuple):
    """Lines of a file, which are records of their own: those after the first `line` ones, from an offset on."""

    line: int
    byte_offset: int
    # Without the last line's end.
    content: bytes
    # Whether the last line has no end: it may be cut off.
    is_last: bool = False
    # Bytes of the one line that these are the beginning of; it is too large to be read.
    too_large: int = 0


def in_blocks(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """Records, as many at once as fit into little memory."""
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


def printable(raw: bytes) -> str:
    """Bytes as text: what is no text is escaped as \\xNN."""
    return raw[:MOST_QUARANTINED_BYTES].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
