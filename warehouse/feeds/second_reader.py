"""A second process that reads every other block of lines of large files: Python parses on one core only.

It keeps nothing from block to block. Where it ends, whatever the reason, this process reads what it was given.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from warehouse.feeds.block_reader import BlockReader, ReadBlock
from warehouse.feeds.json_records import JsonRecords
from warehouse.feeds.record import RawBlock

# Bytes to be read from which on the start of a process pays.
WORTH_A_PROCESS: Final = 16 << 20
# A larger block is one large record, whose memory is not to be taken twice.
_MOST_SENT: Final = 4 << 20


@contextmanager
def second_reader(reader: BlockReader, expected_bytes: int) -> Iterator["SecondReader | None"]:
    """Start a second process where that many bytes are worth one and a core is free for it; else there is none."""
    if expected_bytes < WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        yield None
        return
    second = SecondReader(reader)
    try:
        yield second
    finally:
        second.end()


class SecondReader:
    """The process, seen from the first one: it is given a block, and asked for it later."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        # It knows neither URLs nor passwords: it needs none.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "warehouse.feeds.second_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=1 << 20,
            env=environment,
        )
        self.is_alive = True
        self._give(reader)

    def read_both(self, one: RawBlock, other: RawBlock, place: str, begin: int = 0) -> Iterator[ReadBlock]:
        """Read two blocks at the same time, the first of them by the second process; they come in their order."""
        is_given = len(one.content) <= _MOST_SENT and self._give((one, place, begin))
        if not is_given:
            yield self._reader.read_lines(one, place, begin)
            yield self._reader.read_lines(other, place, begin)
            return
        own = self._reader.read_lines(other, place, begin)
        yield self._take() or self._reader.read_lines(one, place, begin)
        yield own

    def end(self) -> None:
        """End the process: without input it has nothing to do."""
        self.is_alive = False
        self.process.kill()
        self.process.communicate()

    def _give(self, message: object) -> bool:
        if not self.is_alive:
            return False
        assert self.process.stdin is not None
        try:
            pickle.dump(message, self.process.stdin, pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
        except OSError:
            self.is_alive = False
        return self.is_alive

    def _take(self) -> ReadBlock | None:
        assert self.process.stdout is not None
        try:
            block: ReadBlock = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            self.is_alive = False
            return None
        return block


def read_lines(
    records: JsonRecords, reader: BlockReader, second: SecondReader | None, place: str, begin: int
) -> Iterator[ReadBlock]:
    """Read the lines of a file in their order, two blocks at once where there is a second process."""
    blocks = records.raw_blocks()
    for one in blocks:
        other = next(blocks, None) if second is not None else None
        if second is None or other is None:
            yield reader.read_lines(one, place, begin)
        else:
            yield from second.read_both(one, other, place, begin)


def main() -> None:
    """Read the blocks that come by standard input, until it ends."""
    # Ctrl-C is the first process's business: its end is the end of the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    blocks, results = sys.stdin.buffer, sys.stdout.buffer
    try:
        reader: BlockReader = pickle.load(blocks)
        while True:
            block: tuple[Any, ...] = pickle.load(blocks)
            pickle.dump(reader.read_lines(*block), results, pickle.HIGHEST_PROTOCOL)
            results.flush()
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main()
