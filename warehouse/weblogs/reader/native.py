"""The compiled line scanner (scan.c), called through ctypes; without it the same functions run in plain Python.

`library` is None if there was no C compiler at installation, or if scan.c has changed since: `fault` says which. Loads
still work, several times slower.
"""

import ctypes
import hashlib
import secrets
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import portable
from warehouse.weblogs.reader.buffers import PADDING, Bytes, Mask, Places, Words

_COLUMNS = 14
# Visitors choose the texts. A secret keeps them from choosing texts with equal hashes.
_SECRET: Words = np.array([secrets.randbits(64) | 1 for _ in range(4)], np.uint64)


@dataclass(frozen=True)
class Fault:
    """Why the compiled parser is not used, and what to do about it."""

    what: str
    hint: str


_SLOW = "Web logs are read by the slow parser: the compiled one "
NOT_INSTALLED = Fault(
    _SLOW + "(weblogs/reader/scan.c) is not installed.",
    "Install a C compiler (Debian, Ubuntu: apt-get install gcc), then run `make setup`, or install dwh again.",
)
OTHER_SOURCE = Fault(
    _SLOW + "was made of another weblogs/reader/scan.c than the one that is there now.",
    "Run `make setup`, or install dwh again.",
)


def load(folder: Path) -> ctypes.CDLL | Fault:
    """Load the library in a folder; if scan.c is in the folder, only if it was compiled from that."""
    paths = (folder / f"_scan{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return NOT_INSTALLED
    try:
        library = ctypes.CDLL(str(path))
        fingerprint = (ctypes.c_char * 65).in_dll(library, "fingerprint").value.decode()
    except OSError:
        return NOT_INSTALLED
    except ValueError:
        # The library is of an old version, without a fingerprint.
        return OTHER_SOURCE
    source = folder / "scan.c"
    # A wheel contains only the library, not its source.
    if source.exists() and hashlib.sha256(source.read_bytes()).hexdigest() != fingerprint:
        return OTHER_SOURCE
    library.take_rows.restype = ctypes.c_int64
    return library


_loaded = load(Path(__file__).parent)
# ctypes releases the interpreter's lock during a call.
library = None if isinstance(_loaded, Fault) else _loaded
fault = _loaded if isinstance(_loaded, Fault) else None


def scan_lines(buffer: Bytes, size: int) -> tuple[Places, Places, Places, Places]:
    """Split the first `size` bytes into lines and parse the regular ones.

    Returns starts and ends of the lines, the columns of the regular lines (see `parse.Columns`), and the numbers of the
    other lines, which `fallback` parses. Bytes after the last \\n are no line.
    """
    assert library is not None
    if len(buffer) < size + PADDING:
        raise ValueError(f"a buffer of {len(buffer)} bytes has no padding after {size}")
    capacity = int(np.count_nonzero(buffer[:size] == ord("\n")))
    starts, ends, others = (np.empty(capacity, np.int64) for _ in range(3))
    columns = np.empty((_COLUMNS, capacity), np.int64)
    counts = np.zeros(2, np.int64)
    library.scan_lines(
        _at(buffer),
        _i64(size),
        _i64(capacity),
        _at(starts),
        _at(ends),
        _at(columns),
        _at(others),
        _at(counts),
    )
    regular, other = counts.tolist()
    return starts, ends, columns[:, :regular], others[:other]


def parse_v4(buffer: Bytes, start: Places, end: Places) -> tuple[npt.NDArray[np.uint32], Mask]:
    """Parse dotted quads without leading zeros: addresses as numbers, and which texts are one."""
    if library is None:
        return portable.parse_v4(buffer, start, end)
    start, end = np.ascontiguousarray(start), np.ascontiguousarray(end)
    addresses, valid = np.empty(len(start), np.uint32), np.empty(len(start), np.bool_)
    library.parse_v4(_at(buffer), _at(start), _at(end), _i64(len(start)), _at(addresses), _at(valid))
    return addresses, valid


def hash_texts(buffer: Bytes, start: Places, end: Places) -> Words:
    """64-bit hash of the bytes between each `start` and `end`; never 0."""
    if library is None:
        return portable.hash_texts(buffer, start, end, _SECRET.tobytes())
    start, end = np.ascontiguousarray(start), np.ascontiguousarray(end)
    hashes = np.empty(len(start), np.uint64)
    library.hash_texts(_at(buffer), _at(start), _at(end), _i64(len(start)), _at(_SECRET), _at(hashes))
    return hashes


def find_slots(hashes: Words, table: Words) -> Places:
    """Slot of each hash in an open-addressing table whose size is a power of two; -1 where it is not there."""
    if library is None:
        return portable.find_slots(hashes, table)
    slots = np.empty(len(hashes), np.int64)
    mask = ctypes.c_uint64(len(table) - 1)
    library.find_slots(_at(hashes), _i64(len(hashes)), _at(table), mask, _at(slots))
    return slots


def take_rows(
    rows: npt.NDArray[np.void], countries: npt.NDArray[np.int16], chosen: Mask, counts: Places
) -> tuple[Bytes, int]:
    """Take the rows of chosen countries, grouped by country in order of arrival; the others move up.

    `counts` has the number of rows of each country. Returns the bytes taken and the number of rows that stay.
    """
    if library is None:
        return portable.take_rows(rows, countries, chosen)
    width = rows.dtype.itemsize
    leaving = np.where(chosen, counts, 0)
    places = np.cumsum(leaving) - leaving
    content = np.empty(int(leaving.sum()) * width, np.uint8)
    stay = library.take_rows(
        _at(rows), _at(countries), _i64(len(rows)), _i64(width), _at(chosen), _at(places), _at(content)
    )
    return content, stay


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
