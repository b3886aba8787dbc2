"""Recognize the encoding and line ends of a text by its first bytes, and decode it."""

import codecs
from dataclasses import dataclass
from typing import Final

from warehouse.files.compression import Bytes

_READ = 1 << 20
# UTF-32 LE comes before UTF-16 LE, since its mark begins with the other's.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# In UTF-16 text in Latin letters nearly every second byte is NUL, and none of the others.
_MOST, _FEWEST = 0.7, 0.05


@dataclass(frozen=True)
class Encoding:
    """The encoding of a text, the length of its byte order mark, and whether its lines end with CR alone."""

    name: str = "utf-8"
    mark_bytes: int = 0
    has_cr_ends: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether the text has to be decoded, since its characters have two or four bytes."""
        return self.name != "utf-8"

    def __str__(self) -> str:
        mark = " with a byte order mark" if self.mark_bytes else ""
        return self.name.upper() + mark + (", lines end with CR" if self.has_cr_ends else "")


def encoding_of(head: bytes) -> Encoding:
    """Return the encoding of a text that begins with these bytes; UTF-8 if nothing suggests another."""
    name, mark_bytes = next(
        ((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), (_without_mark(head), 0)
    )
    text = head[mark_bytes:]
    if name != "utf-8":
        text = text.decode(name, "replace").encode()
    # Ignore a CR at the very end: its LF may follow in the next bytes.
    is_text = b"\0" not in text
    return Encoding(name, mark_bytes, is_text and b"\n" not in text and b"\r" in text[:-1])


def _without_mark(head: bytes) -> str:
    even, odd = head[::2], head[1::2]
    if not odd:
        return "utf-8"
    share_even, share_odd = even.count(0) / len(even), odd.count(0) / len(odd)
    if share_odd > _MOST and share_even < _FEWEST:
        return "utf-16-le"
    if share_even > _MOST and share_odd < _FEWEST:
        return "utf-16-be"
    return "utf-8"


_KEPT: Final = "dwh.kept"


def _keep(error: UnicodeError) -> tuple[str | bytes, int]:
    """Keep lone surrogates, and replace undecodable bytes by one: such lines are invalid UTF-8 and are quarantined."""
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeDecodeError as refused:
        return "\udfff", refused.end


codecs.register_error(_KEPT, _keep)


class Decoded:
    """A text converted to UTF-8, without its byte order mark. Half a character at the end waits for its other half."""

    def __init__(self, source: Bytes, encoding: Encoding) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding.name)(_KEPT)
        self._left = encoding.mark_bytes
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        while not self._ahead and (raw := self._source.read(_READ)):
            skipped = raw[self._left :]
            self._left -= len(raw) - len(skipped)
            self._ahead = self._decoder.decode(skipped).encode("utf-8", "surrogatepass")
        content, self._ahead = self._ahead[:size], self._ahead[size:]
        return content
