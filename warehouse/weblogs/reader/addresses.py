"""Parse the IP addresses and host names of visitors, for whole blocks of lines."""

import re
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
# Kinds of texts. Position 0 of the stored texts stands for all invalid ones.
_INVALID, _V4, _V6, _HOST = range(4)
# Servers that resolve addresses log host names in their place. The last label of a host name is not a number: 1.2.3.256
# and 1.2.3 are malformed addresses.
_HOST_NAME = re.compile(rb"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*+(?=[^.]*[A-Za-z])[A-Za-z0-9_-]{1,63}")
# ::ffff:0:0/96: IPv4 addresses as dual-stack sockets show them.
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class Addresses:
    """Addresses of lines: `v4` where `is_v4`, halves (`high`, `low`) of an IPv6 address where `is_v6`, else host names.

    IPv4 addresses that are mapped into IPv6 are IPv4 addresses. Other texts are not `valid`.
    """

    v4: npt.NDArray[np.uint32]
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]

    @property
    def is_v4(self) -> Mask:
        """Which are IPv4 addresses."""
        found: Mask = self.kind == _V4
        return found

    @property
    def is_v6(self) -> Mask:
        """Which are IPv6 addresses."""
        found: Mask = self.kind == _V6
        return found

    @property
    def is_host(self) -> Mask:
        """Which are host names."""
        found: Mask = self.kind == _HOST
        return found

    @property
    def valid(self) -> Mask:
        """Which are addresses or host names."""
        found: Mask = self.kind != _INVALID
        return found

    def select(self, chosen: Mask) -> "Addresses":
        """The addresses of the chosen lines."""
        return Addresses(self.v4[chosen], self.high[chosen], self.low[chosen], self.kind[chosen])


class AddressReader:
    """Parses addresses: IPv4 in every line; other texts, which have many spellings, once each."""

    def __init__(self) -> None:
        self._table = KeyTable(0)
        self._high: Words = np.zeros(1024, np.uint64)
        self._low: Words = np.zeros(1024, np.uint64)
        self._kind = np.zeros(1024, np.uint8)
        self._count = 1

    def read(self, buffer: Bytes, start: Places, end: Places) -> Addresses:
        """Parse the texts between each `start` and `end`."""
        v4, is_v4 = native.parse_v4(buffer, start, end)
        count = len(start)
        high, low = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        kind = is_v4 * np.uint8(_V4)
        others = np.flatnonzero(~is_v4)
        if len(others):
            keys = self._keys(buffer, start[others], end[others])
            high[others], low[others], kind[others] = self._high[keys], self._low[keys], self._kind[keys]
            mapped = others[kind[others] == _V4]
            v4[mapped] = low[mapped].astype(np.uint32)
        return Addresses(v4, high, low, kind)

    def _keys(self, buffer: Bytes, start: Places, end: Places) -> npt.NDArray[np.int32]:
        hashes = native.hash_texts(buffer, start, end)
        slots = self._table.find(hashes)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            if self._count + len(missing) > _MAX_TEXTS:
                self._table.clear()
                self._count = 1
                missing = np.arange(len(hashes))
            distinct, first = np.unique(hashes[missing], return_index=True)
            at = missing[first]
            spans = zip(start[at].tolist(), end[at].tolist(), strict=True)
            packed = [_pack(buffer[a:b].tobytes()) for a, b in spans]
            self._table.add(distinct, [(key,) for key in self._store(packed)])
            slots = self._table.find(hashes)
        keys: npt.NDArray[np.int32] = self._table.values(slots)[0]
        return keys

    def _store(self, packed: list[tuple[int, bytes]]) -> list[int]:
        """Store kinds and addresses; returns the position of each, 0 for invalid texts."""
        rows = np.arange(self._count, self._count + len(packed))
        if rows[-1] >= len(self._high):
            room = max(len(self._high), len(packed))
            self._high, self._low, self._kind = (
                np.concatenate([values, np.zeros(room, values.dtype)])
                for values in (self._high, self._low, self._kind)
            )
        halves = np.frombuffer(b"".join(value for _, value in packed), ">u8").reshape(-1, 2)
        self._high[rows], self._low[rows] = halves[:, 0], halves[:, 1]
        self._kind[rows] = [kind for kind, _ in packed]
        self._count += len(packed)
        return [row if kind else 0 for row, (kind, _) in zip(rows.tolist(), packed, strict=True)]


def _pack(text: bytes) -> tuple[int, bytes]:
    """Return the kind of a text that is no dotted quad, and its address as 16 bytes."""
    packed = pack_address(socket.AF_INET6, text)
    if packed is None:
        return (_HOST if _HOST_NAME.fullmatch(text.removesuffix(b".")) else _INVALID), bytes(16)
    if packed.startswith(_MAPPED_PREFIX):
        return _V4, bytes(12) + packed[12:]
    return _V6, packed
