"""Read workbooks in a separate process with a memory limit: a file of some kilobytes may unpack to hundreds of
gigabytes, and the library then crashes its process."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

# Memory limit of the process. A sheet of a million rows with eight columns takes half of it.
MOST_BYTES: Final = 4 << 30
_BLOCK_ROWS: Final = 2000
Rows = Sequence[Sequence[Any]]


class UnreadableWorkbook(Exception):
    """A workbook is damaged, has a password, or takes too much memory."""


def read_workbook(content: bytes, most_bytes: int = MOST_BYTES) -> Iterator[tuple[int, Rows]]:
    """Yield the rows of all sheets in blocks, each with the number of its sheet. Empty cells are None.

    Raises:
        UnreadableWorkbook: it is damaged, has a password, or takes too much memory.
    """
    # Do not pass on the URLs and passwords in DWH_… variables. OpenBLAS reserves memory for each thread.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(most_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        # If the process has died already, reading from it below fails, too.
        with suppress(OSError), process.stdin as stdin:
            stdin.write(content)
        while True:
            try:
                message = pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                message = (
                    f"its reader has ended, as where it takes more than {most_bytes >> 20:,} MB of memory"
                )
            if message is None:
                return
            if isinstance(message, str):
                raise UnreadableWorkbook(message)
            yield message
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _blocks(content: bytes) -> Iterator[tuple[int, Rows]]:
    import io

    import pandas as pd

    # keep_default_na=False: NA is a country (Namibia), and Null a name.
    sheets = pd.read_excel(
        io.BytesIO(content),
        sheet_name=None,
        header=None,
        dtype=object,
        engine="calamine",
        keep_default_na=False,
    )
    for number, sheet in enumerate(sheets.values()):
        rows = (
            [None if value is None or value != value or value == "" else value for value in row]
            for row in sheet.itertuples(index=False)
        )
        while block := list(islice(rows, _BLOCK_ROWS)):
            yield number, block


def main() -> None:
    """Read a workbook from standard input; write its blocks, then None, or why it cannot be read."""
    # Ignore Ctrl-C: the first process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results = sys.stdout.buffer
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), resource.RLIM_INFINITY))
    message: str | None = None
    try:
        for block in _blocks(sys.stdin.buffer.read()):
            pickle.dump(block, results, pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        return
    except Exception as error:
        # The library raises various errors for damaged or encrypted files.
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    pickle.dump(message, results, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main()
