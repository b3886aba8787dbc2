"""A record of a file: its place, its bytes as they came, and its fields or why it has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

# Larger ones are not read: the text of one value in PostgreSQL ends at 1 GB, and memory before that.
MOST_RECORD_BYTES: Final = 64 << 20
# Of a record that cannot be read, what the quarantine keeps; the bad-records path has all of it.
MOST_QUARANTINED_BYTES: Final = 1 << 20


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


@dataclass(frozen=True)
class Shape:
    """How often records had these fields, with values of these types."""

    table: str
    fields: Sequence[str]
    types: Sequence[type]


Shapes = Mapping[Shape, int]


def printable(raw: bytes) -> str:
    """Bytes as text: what is no text is escaped as \\xNN."""
    return raw[:MOST_QUARANTINED_BYTES].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
