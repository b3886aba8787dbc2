"""The compiled inner loops (scan.c), where they could be built; else `library` is None, and numpy does the same."""

import ctypes
import secrets
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader.swar import Bytes, Mask, Places, Words

_COLUMNS = 14
# Strangers choose the texts: nobody shall choose their hashes.
_SECRET: Words = np.array([secrets.randbits(64) | 1 for _ in range(4)], np.uint64)


def _load() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_scan{suffix}")
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                return None
    return None


# Its functions work without the interpreter's lock.
library = _load()


def scan_lines(buffer: Bytes, size: int) -> tuple[Places, Places, Places, Places]:
    """Starts and ends of the lines in the first `size` bytes; columns of the regular ones; numbers of the others."""
    assert library is not None
    capacity = _count(buffer, size)
    starts, ends, others = (np.empty(capacity, np.int64) for _ in range(3))
    columns = np.empty((_COLUMNS, capacity), np.int64)
    counts = np.zeros(3, np.int64)
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
    _, rows, odd = counts.tolist()
    return starts, ends, columns[:, :rows], others[:odd]


def parse_v4(buffer: Bytes, start: Places, end: Places) -> tuple[npt.NDArray[np.uint32], Mask]:
    """Dotted quads as numbers, without leading zeros, and whether they are that."""
    assert library is not None
    start, end = np.ascontiguousarray(start), np.ascontiguousarray(end)
    addresses, valid = np.empty(len(start), np.uint32), np.empty(len(start), np.bool_)
    library.parse_v4(_at(buffer), _at(start), _at(end), _i64(len(start)), _at(addresses), _at(valid))
    return addresses, valid


def hash_texts(buffer: Bytes, start: Places, end: Places) -> Words:
    """64-bit hash of the bytes between each `start` and `end`; never 0."""
    assert library is not None
    start, end = np.ascontiguousarray(start), np.ascontiguousarray(end)
    hashes = np.empty(len(start), np.uint64)
    library.hash_texts(_at(buffer), _at(start), _at(end), _i64(len(start)), _at(_SECRET), _at(hashes))
    return hashes


def find_slots(hashes: Words, table: Words) -> Places:
    """Slot of each hash in an open-addressing table whose size is a power of two; -1 where it is not there."""
    assert library is not None
    slots = np.empty(len(hashes), np.int64)
    mask = ctypes.c_uint64(len(table) - 1)
    library.find_slots(_at(hashes), _i64(len(hashes)), _at(table), mask, _at(slots))
    return slots


def take_rows(
    rows: npt.NDArray[np.void], countries: npt.NDArray[np.int16], chosen: Mask, counts: Places
) -> tuple[Bytes, int]:
    """Bytes of the rows of chosen countries, country by country in the order they came; the others move up, so many.

    `counts` tells how many rows each country has.
    """
    assert library is not None
    width = rows.dtype.itemsize
    leaving = np.where(chosen, counts, 0)
    places = np.cumsum(leaving) - leaving
    content = np.empty(int(leaving.sum()) * width, np.uint8)
    library.take_rows.restype = ctypes.c_int64
    stay = library.take_rows(
        _at(rows), _at(countries), _i64(len(rows)), _i64(width), _at(chosen), _at(places), _at(content)
    )
    return content, stay


def _count(buffer: Bytes, size: int) -> int:
    return int(np.count_nonzero(buffer[:size] == ord("\n")))


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
