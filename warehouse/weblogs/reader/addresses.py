"""IP addresses of whole blocks of lines."""

import socket
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.buffers import Bytes, Mask, Places, Words
from warehouse.weblogs.reader.key_table import KeyTable
from warehouse.weblogs.reader.portable import pack_address

# Distinct texts other than IPv4 addresses kept in memory: about 30 MB.
_MAX_TEXTS = 1_000_000
_INVALID = 0


@dataclass(frozen=True)
class Addresses:
    """Addresses of lines: `v4` where `is_v4`, else (`high`, `low`) halves of an IPv6 address."""

    is_v4: Mask
    v4: npt.NDArray[np.uint32]
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    valid: Mask

    def select(self, chosen: Mask) -> "Addresses":
        """The addresses of the chosen lines."""
        return Addresses(
            self.is_v4[chosen], self.v4[chosen], self.high[chosen], self.low[chosen], self.valid[chosen]
        )


class AddressReader:
    """Parses addresses: IPv4 in every line; IPv6, which has many spellings, once per distinct text."""

    def __init__(self) -> None:
        self._table = KeyTable(0)
        self._high: Words = np.zeros(1024, np.uint64)
        self._low: Words = np.zeros(1024, np.uint64)
        self._count = _INVALID + 1

    def read(self, buffer: Bytes, start: Places, end: Places) -> Addresses:
        """The addresses between `start` and `end`; texts that are no address are not `valid`."""
        v4, is_v4 = native.parse_v4(buffer, start, end)
        count = len(start)
        high, low = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        valid = is_v4.copy()
        others = np.flatnonzero(~is_v4)
        if len(others):
            keys = self._keys(buffer, start[others], end[others])
            high[others], low[others], valid[others] = self._high[keys], self._low[keys], keys != _INVALID
        return Addresses(is_v4, v4, high, low, valid)

    def _keys(self, buffer: Bytes, start: Places, end: Places) -> npt.NDArray[np.int32]:
        hashes = native.hash_texts(buffer, start, end)
        slots = self._table.find(hashes)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            if self._count + len(missing) > _MAX_TEXTS:
                self._table.clear()
                self._count = _INVALID + 1
                missing = np.arange(len(hashes))
            distinct, first = np.unique(hashes[missing], return_index=True)
            at = missing[first]
            spans = zip(start[at].tolist(), end[at].tolist(), strict=True)
            packed = [pack_address(socket.AF_INET6, buffer[a:b].tobytes()) for a, b in spans]
            self._table.add(distinct, [(key,) for key in self._store(packed)])
            slots = self._table.find(hashes)
        keys: npt.NDArray[np.int32] = self._table.values(slots)[0]
        return keys

    def _store(self, packed: list[bytes | None]) -> list[int]:
        """Store addresses; returns the place of each, or `_INVALID`."""
        rows = np.arange(self._count, self._count + len(packed))
        if rows[-1] >= len(self._high):
            room = np.zeros(max(len(self._high), len(packed)), np.uint64)
            self._high, self._low = np.concatenate([self._high, room]), np.concatenate([self._low, room])
        halves = np.frombuffer(b"".join(value or bytes(16) for value in packed), ">u8").reshape(-1, 2)
        self._high[rows], self._low[rows] = halves[:, 0], halves[:, 1]
        self._count += len(packed)
        return [
            row if value is not None else _INVALID for row, value in zip(rows.tolist(), packed, strict=True)
        ]
