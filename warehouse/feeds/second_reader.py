"""Parse large files in two processes, since Python uses one core only: the second one parses every other block.

It has no state between blocks. If it dies, for whatever reason, the first process parses its blocks.
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

# Number of bytes to read from which on starting a process is worth it.
WORTH_A_PROCESS: Final = 16 << 20
# A larger block is one large record: do not send it, which would take its memory twice.
_MOST_SENT: Final = 4 << 20


@contextmanager
def second_reader(reader: BlockReader, expected_bytes: int) -> Iterator["SecondReader | None"]:
    """Start a second process if there are enough bytes and a second core; otherwise yields None."""
    if expected_bytes < WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        yield None
        return
    second = SecondReader(reader)
    try:
        yield second
    finally:
        second.end()


class SecondReader:
    """The first process's handle of the second: send it a block, and fetch the result later."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        # The process does not need the URLs and passwords in DWH_… variables: do not pass them on.
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
        """Parse two blocks in parallel, `one` in the second process. Yields the results in order."""
        is_given = len(one.content) <= _MOST_SENT and self._give((one, place, begin))
        if not is_given:
            yield self._reader.read_lines(one, place, begin)
            yield self._reader.read_lines(other, place, begin)
            return
        own = self._reader.read_lines(other, place, begin)
        yield self._take() or self._reader.read_lines(one, place, begin)
        yield own

    def end(self) -> None:
        """Kill the process, and wait for it."""
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
    """Parse the lines of a file in order, two blocks at a time if there is a second process."""
    blocks = records.raw_blocks()
    for one in blocks:
        other = next(blocks, None) if second is not None else None
        if second is None or other is None:
            yield reader.read_lines(one, place, begin)
        else:
            yield from second.read_both(one, other, place, begin)


def main() -> None:
    """Parse the blocks that arrive on standard input, until it ends."""
    # Ignore Ctrl-C: the first process handles it, and closes the input when it ends.
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
