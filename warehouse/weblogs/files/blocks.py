"""A file's lines in blocks of whole lines, in one buffer that is used again and again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from warehouse.files.gzip_reader import ContentReader
from warehouse.files.locations import Location
from warehouse.weblogs.reader.swar import PADDING, Bytes

# What fits into the processor's cache is parsed at twice the speed.
BLOCK_BYTES = 3 << 20
# A line longer than this is kept only as its place in the file.
LONGEST_LINE = 64 << 20
# How much of such a line is shown in quarantine, and an end.
_SHOWN = (1 << 16) + 1


@dataclass(frozen=True)
class Block:
    """Whole lines: `buffer[:size]`, of which every line ends with \\n, the last one perhaps by our doing."""

    buffer: Bytes
    size: int
    byte_offset: int
    # Bytes of the file in it: one less than `size` where the last line has no end.
    byte_count: int
    # A single last line without an end, which may yet be written on.
    is_open: bool
    # A line too long to be held: its bytes are skipped, the buffer holds its beginning.
    is_oversized: bool = False


class BlockReader:
    """Reads a file from an offset on; `fault` tells afterwards why a compressed file could not be read to its end."""

    def __init__(self, block_bytes: int = BLOCK_BYTES, longest_line: int = LONGEST_LINE) -> None:
        self._longest = longest_line
        self._room = np.zeros(block_bytes + PADDING, np.uint8)
        self.fault: str | None = None

    def blocks(self, location: Location, offset: int) -> Iterator[Block]:
        """Blocks of the file's lines from `offset` on."""
        with ContentReader(location) as content:
            content.skip_to(offset)
            held = 0
            while True:
                capacity = len(self._room) - PADDING
                held += content.readinto(self._room[held:capacity].data)
                at_end = held < capacity
                lines_end = self._last_line_end(held)
                if lines_end:
                    yield Block(self._room, lines_end, offset, lines_end, is_open=False)
                    held -= lines_end
                    self._room[:held] = self._room[lines_end : lines_end + held].copy()
                    offset += lines_end
                if at_end:
                    break
                if not lines_end and held == capacity:
                    if capacity < self._longest:
                        self._room = np.concatenate([self._room, np.zeros(capacity, np.uint8)])
                        continue
                    length, ended, rest = _skip_line(content, held)
                    self._room[_SHOWN - 1] = ord("\n")
                    yield Block(self._room, _SHOWN, offset, length, is_open=not ended, is_oversized=True)
                    offset += length
                    held = len(rest)
                    self._room[:held] = rest
            self.fault = content.fault
            # A compressed file that is whole is not written to any more: its last line is as it will be.
            if held:
                self._room[held] = ord("\n")
                yield Block(
                    self._room, held + 1, offset, held, is_open=not content.is_gzip or self.fault is not None
                )

    def _last_line_end(self, held: int) -> int:
        """One past the last \\n in the first `held` bytes; 0 where there is none."""
        step = 1 << 16
        for start in range(max(held - step, 0), -step, -step):
            low = max(start, 0)
            ends = np.flatnonzero(self._room[low : min(low + step, held)] == ord("\n"))
            if len(ends):
                return low + int(ends[-1]) + 1
        return 0


def _skip_line(content: ContentReader, held: int) -> tuple[int, bool, Bytes]:
    """Read past a line of which `held` bytes are read: its length, whether it ended, and what was read after it."""
    piece = np.zeros(1 << 20, np.uint8)
    length = held
    while count := content.readinto(piece.data):
        end = np.flatnonzero(piece[:count] == ord("\n"))[:1]
        if len(end):
            after = int(end[0]) + 1
            return length + after, True, piece[after:count]
        length += count
    return length, False, piece[:0]
