"""Texts to keys at the speed of memory: a hash table of whole columns, probed for all rows at once."""

import secrets
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.swar import Bytes, ByteWords, Places, Words, u64

_INLINE = 12
# Strangers choose the texts: nobody shall choose their hashes.
_SEED = secrets.randbits(63)


def text_hashes(buffer: Bytes, words: ByteWords, start: Places, end: Places) -> Words:
    """64-bit hash of the bytes between each `start` and `end`, without copying them.

    The texts are handed over as Arrow binary views: length, first bytes and place of each (short texts whole).
    """
    if native.library is not None:
        return native.hash_texts(buffer, start, end)
    length = end - start
    view = np.zeros((len(start), 4), np.uint32)
    view[:, 0] = length
    view[:, 1] = words.at4[start]
    view[:, 3] = start
    short = np.flatnonzero(length <= _INLINE)
    if len(short):
        size, place = length[short], start[short]
        low = words.at8[place] & _below(np.minimum(size, 8))
        high = words.at4[place + 8].astype(np.uint64) & _below((size - 8).clip(0, 4))
        view[short, 1] = low & u64(0xFFFFFFFF)
        view[short, 2] = low >> u64(32)
        view[short, 3] = high
    array = pa.Array.from_buffers(
        pa.binary_view(), len(start), [None, pa.py_buffer(view), pa.py_buffer(buffer)], null_count=0
    )
    series = cast(pl.Series, pl.from_arrow(array))
    # 0 marks an empty slot of the table.
    hashes: Words = series.hash(_SEED).to_numpy()
    return np.maximum(hashes, u64(1))


def _below(count: Places) -> Words:
    """Words of which the first `count` bytes, 0 to 8, are set."""
    bits = (count * 8).astype(np.uint64)
    return np.where(count == 8, ~u64(0), (u64(1) << (bits & u64(63))) - u64(1))


class KeyTable:
    """Open addressing over text hashes; each entry holds a key and, beside it, further small numbers."""

    def __init__(self, attributes: int) -> None:
        self._attributes = attributes
        self.clear()

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget everything."""
        self._count = 0
        self._allocate(1 << 12)

    def find(self, hashes: Words) -> Places:
        """Slot of each hash; -1 where it is not in the table."""
        if native.library is not None:
            return native.find_slots(hashes, self._hashes)
        slots = self._first_slots(hashes)
        found = self._hashes[slots]
        open_rows = np.flatnonzero((found != hashes) & (found != 0))
        while len(open_rows):
            slots[open_rows] = (slots[open_rows] + 1) & self._mask
            found[open_rows] = self._hashes[slots[open_rows]]
            open_rows = open_rows[(found[open_rows] != hashes[open_rows]) & (found[open_rows] != 0)]
        slots[found != hashes] = -1
        return slots

    def values(self, slots: Places) -> npt.NDArray[np.int32]:
        """Key and attributes of the entries in `slots`, one array each."""
        return self._values[:, slots]

    def add(self, hashes: Words, values: Sequence[Sequence[int]]) -> None:
        """Enter distinct new hashes, each with its key and attributes."""
        if not len(hashes):
            return
        while (self._count + len(hashes)) * 2 > len(self._hashes):
            old_hashes, old_values = self._hashes, self._values
            used = np.flatnonzero(old_hashes)
            self._allocate(len(old_hashes) * 2)
            self._place(old_hashes[used], old_values[:, used])
        self._place(hashes, np.array(values, np.int32).reshape(len(hashes), -1).T)
        self._count += len(hashes)

    def _place(self, hashes: Words, values: npt.NDArray[np.int32]) -> None:
        slots = self._first_slots(hashes)
        left = np.arange(len(hashes))
        while len(left):
            free = left[self._hashes[slots[left]] == 0]
            # Two that want one slot: the last one written has it, the others go on.
            self._hashes[slots[free]] = hashes[free]
            placed = free[self._hashes[slots[free]] == hashes[free]]
            self._values[:, slots[placed]] = values[:, placed]
            left = left[self._hashes[slots[left]] != hashes[left]]
            slots[left] = (slots[left] + 1) & self._mask

    def _first_slots(self, hashes: Words) -> Places:
        return (hashes & u64(self._mask)).astype(np.int64)

    def _allocate(self, capacity: int) -> None:
        self._mask = capacity - 1
        self._hashes = np.zeros(capacity, np.uint64)
        self._values = np.zeros((1 + self._attributes, capacity), np.int32)
