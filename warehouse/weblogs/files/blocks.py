"""Reads a file in blocks of whole lines, into one reused buffer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from warehouse.files.archive import DEFAULT_LIMITS, Limits
from warehouse.files.content import ContentReader
from warehouse.files.lake import LakeFile
from warehouse.weblogs.reader.buffers import PADDING, Bytes

# Fits into the processor's cache, which doubles the speed of the parser.
BLOCK_BYTES = 3 << 20
# A longer line is not read: quarantine gets its place in the file and its beginning.
MAX_LINE_BYTES = 64 << 20
# Bytes that may precede the first line: a byte order mark, and NULs, which fill the gap if a server keeps its write
# position in a file that rotation has truncated (copytruncate).
BYTE_ORDER_MARK, GAP = b"\xef\xbb\xbf", b"\0"
_READ = 1 << 20
# Bytes of the beginning that quarantine gets, and a line end.
_SHOWN = (1 << 16) + 1


@dataclass(frozen=True)
class Block:
    """Whole lines: `buffer[:size]`. Every line ends with \\n; it is added to a last line that has none."""

    buffer: Bytes
    size: int
    byte_offset: int
    # Bytes of the file in it: one less than `size` if the last line has no end.
    byte_count: int
    # A single last line without an end: the server may still be writing it.
    is_unterminated: bool
    # A line that is too long: the buffer has its beginning, the rest is skipped.
    is_oversized: bool = False


class BlockReader:
    """Reads a file from an offset; `fault` is set afterwards if a compressed file could not be read to its end."""

    def __init__(
        self,
        block_bytes: int = BLOCK_BYTES,
        max_line_bytes: int = MAX_LINE_BYTES,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._max_line_bytes, self._limits = max_line_bytes, limits
        self._room = np.zeros(block_bytes + PADDING, np.uint8)
        self.fault: str | None = None

    def blocks(self, file: LakeFile, offset: int) -> Iterator[Block]:
        """Yield blocks of the file's lines from `offset` on; bytes before the first line are a block without lines."""
        with ContentReader(file.location) as content:
            content.skip_to(offset)
            held, limit = 0, None
            is_before_lines = offset == 0
            while limit is None:
                capacity = len(self._room) - PADDING
                held += content.readinto(self._room[held:capacity].data)
                at_end = held < capacity
                if is_before_lines:
                    skipped = _length_before_lines(self._room[:held], offset)
                    is_before_lines = 0 < skipped == held
                    if skipped:
                        yield Block(self._room, 0, offset, skipped, is_unterminated=False)
                        offset += skipped
                        held -= skipped
                        self._room[:held] = self._room[skipped : skipped + held].copy()
                        if not at_end:
                            continue
                lines_end = self._last_line_end(held)
                if lines_end:
                    yield Block(self._room, lines_end, offset, lines_end, is_unterminated=False)
                    held -= lines_end
                    self._room[:held] = self._room[lines_end : lines_end + held].copy()
                    offset += lines_end
                if at_end:
                    break
                if not lines_end and held == capacity:
                    if capacity < self._max_line_bytes:
                        self._room = np.concatenate([self._room, np.zeros(capacity, np.uint8)])
                        continue
                    length, ended, rest = _skip_line(content, held)
                    self._room[_SHOWN - 1] = ord("\n")
                    yield Block(
                        self._room, _SHOWN, offset, length, is_unterminated=not ended, is_oversized=True
                    )
                    offset += length
                    held = len(rest)
                    self._room[:held] = rest
                if content.is_compressed:
                    limit = self._limits.fault(file.size_bytes, content.position)
            fault = content.fault or limit
            self.fault = fault and f"the compressed file {fault}"
            # Nobody appends to a complete compressed file: its last line is final, even without an end.
            if held:
                self._room[held] = ord("\n")
                yield Block(
                    self._room,
                    held + 1,
                    offset,
                    held,
                    is_unterminated=not (content.is_compressed or file.is_final) or self.fault is not None,
                )

    def _last_line_end(self, held: int) -> int:
        """Return the position after the last \\n in the first `held` bytes; 0 if there is none."""
        step = 1 << 16
        for start in range(max(held - step, 0), -step, -step):
            low = max(start, 0)
            ends = np.flatnonzero(self._room[low : min(low + step, held)] == ord("\n"))
            if len(ends):
                return low + int(ends[-1]) + 1
        return 0


def bytes_before_lines(content: ContentReader) -> int:
    """Count the bytes before the first line of an open file; it is read at least up to that line."""
    count = 0
    while len(piece := np.frombuffer(content.read(_READ), np.uint8)):
        length = _length_before_lines(piece, count)
        count += length
        if length < len(piece):
            break
    return count


def _length_before_lines(content: Bytes, offset: int) -> int:
    """Count the bytes before the first line in `content`, which begins at byte `offset` of a file."""
    mark = len(BYTE_ORDER_MARK) if not offset and content[:3].tobytes() == BYTE_ORDER_MARK else 0
    lines = np.flatnonzero(content[mark:] != ord(GAP))[:1]
    return mark + (int(lines[0]) if len(lines) else len(content) - mark)


def _skip_line(content: ContentReader, held: int) -> tuple[int, bool, Bytes]:
    """Read to the end of a line of which `held` bytes are read.

    Returns its length, whether it has an end, and the bytes that were read after it.
    """
    piece = np.zeros(1 << 20, np.uint8)
    length = held
    while count := content.readinto(piece.data):
        end = np.flatnonzero(piece[:count] == ord("\n"))[:1]
        if len(end):
            after = int(end[0]) + 1
            return length + after, True, piece[after:count]
        length += count
    return length, False, piece[:0]
