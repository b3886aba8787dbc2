"""A hash table from text hashes to keys, looked up for whole columns at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.buffers import Places, Words


class KeyTable:
    """A table with open addressing by text hashes; each entry has a key and further small numbers, its attributes."""

    def __init__(self, attributes: int) -> None:
        self._attributes = attributes
        self.clear()

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Remove all entries."""
        self._count = 0
        self._allocate(1 << 12)

    def find(self, hashes: Words) -> Places:
        """Slot of each hash; -1 where it is not in the table."""
        return native.find_slots(hashes, self._hashes)

    def values(self, slots: Places) -> npt.NDArray[np.int32]:
        """Key and attributes of the entries in `slots`, one array each."""
        return self._values[:, slots]

    def add(self, hashes: Words, values: Sequence[Sequence[int]]) -> None:
        """Add distinct new hashes, each with its key and attributes."""
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
        slots = (hashes & np.uint64(self._mask)).astype(np.int64)
        left = np.arange(len(hashes))
        while len(left):
            free = left[self._hashes[slots[left]] == 0]
            # If several hashes are written to one slot, the last one stays, and the others try the next slot.
            self._hashes[slots[free]] = hashes[free]
            placed = free[self._hashes[slots[free]] == hashes[free]]
            self._values[:, slots[placed]] = values[:, placed]
            left = left[self._hashes[slots[left]] != hashes[left]]
            slots[left] = (slots[left] + 1) & self._mask

    def _allocate(self, capacity: int) -> None:
        self._mask = capacity - 1
        self._hashes = np.zeros(capacity, np.uint64)
        self._values = np.zeros((1 + self._attributes, capacity), np.int32)
