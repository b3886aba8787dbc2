"""IP addresses out of text, whole blocks at a time."""

import socket
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.swar import Bytes, ByteWords, Mask, Places, Words
from warehouse.weblogs.storage.key_table import KeyTable, text_hashes

_LONGEST_V4 = 15
# Texts that are no IPv4 addresses, in memory: about 30 MB.
_MOST_V6 = 1_000_000
_INVALID = 0
_ZERO, _DOT, _TEN = np.uint8(ord("0")), np.uint8(ord(".")), np.uint16(10)


@dataclass(frozen=True)
class Addresses:
    """Addresses of lines: `v4` where `is_v4`, else (`high`, `low`) halves of an IPv6 address."""

    is_v4: Mask
    v4: npt.NDArray[np.uint32]
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    valid: Mask

    def select(self, chosen: Mask) -> "Addresses":
        """The addresses chosen."""
        return Addresses(
            self.is_v4[chosen], self.v4[chosen], self.high[chosen], self.low[chosen], self.valid[chosen]
        )


class AddressReader:
    """Reads addresses: IPv4 by arithmetic; IPv6, which has many spellings, once per distinct text."""

    def __init__(self) -> None:
        self._table = KeyTable(0)
        self._high: Words = np.zeros(1024, np.uint64)
        self._low: Words = np.zeros(1024, np.uint64)
        self._count = _INVALID + 1

    def read(self, buffer: Bytes, words: ByteWords, start: Places, end: Places) -> Addresses:
        """The addresses between `start` and `end`; those that are none are not `valid`."""
        if native.library is not None:
            v4, is_v4 = native.parse_v4(buffer, start, end)
        else:
            v4, is_v4 = _parse_v4(words, start, end)
        count = len(start)
        high, low = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        valid = is_v4.copy()
        others = np.flatnonzero(~is_v4)
        if len(others):
            keys = self._keys(buffer, words, start[others], end[others])
            high[others], low[others], valid[others] = self._high[keys], self._low[keys], keys != _INVALID
        return Addresses(is_v4, v4, high, low, valid)

    def _keys(self, buffer: Bytes, words: ByteWords, start: Places, end: Places) -> npt.NDArray[np.int32]:
        hashes = text_hashes(buffer, words, start, end)
        slots = self._table.find(hashes)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            if self._count + len(missing) > _MOST_V6:
                self._table.clear()
                self._count = _INVALID + 1
                missing = np.arange(len(hashes))
            distinct, first = np.unique(hashes[missing], return_index=True)
            at = missing[first]
            spans = zip(start[at].tolist(), end[at].tolist(), strict=True)
            packed = [_pack_v6(buffer[a:b].tobytes()) for a, b in spans]
            self._table.add(distinct, [(key,) for key in self._keep(packed)])
            slots = self._table.find(hashes)
        keys: npt.NDArray[np.int32] = self._table.values(slots)[0]
        return keys

    def _keep(self, packed: list[bytes | None]) -> list[int]:
        """Keep addresses; the place of each, or that of the invalid one."""
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


def _parse_v4(words: ByteWords, start: Places, end: Places) -> tuple[npt.NDArray[np.uint32], Mask]:
    """Dotted quads as numbers, without leading zeros, and whether they are that."""
    ok = (end - start) <= _LONGEST_V4
    address = np.zeros(len(start), np.uint32)
    place = start
    for octet in range(4):
        near = words.at4[place].view(np.uint8).reshape(-1, 4).T
        first, second, third = (character - _ZERO for character in near[:3])
        two = second < 10
        three = two & (third < 10)
        value = first.astype(np.uint16)
        value = np.where(two, value * _TEN + second, value)
        value = np.where(three, value * _TEN + third, value)
        ok &= (first < 10) & ((first > 0) | ~two) & (value <= 255)
        address = (address << np.uint32(8)) | value
        place = place + 1 + two + three
        if octet < 3:
            ok &= np.where(three, near[3], np.where(two, near[2], near[1])) == _DOT
            place += 1
    return address, ok & (place == end)


def _pack_v6(text: bytes) -> bytes | None:
    try:
        return socket.inet_pton(socket.AF_INET6, text.decode("ascii"))
    except (OSError, ValueError):
        return None
