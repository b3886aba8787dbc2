"""Search tree and records of a file in MaxMind's format: look up many addresses at once, decode only their records."""

from typing import Any, Final

import maxminddb
import numpy as np
import numpy.typing as npt
from maxminddb.decoder import Decoder

Numbers = npt.NDArray[np.uint64]
Nodes = npt.NDArray[np.int64]

# Bytes between the tree and the records.
_GAP = 16
# Number of records in the sample by which a file is checked for countries.
_SAMPLE_BITS = 12
_SAMPLE = 1 << _SAMPLE_BITS
_POINTER, _TEXT, _DOUBLE, _MAP, _ARRAY, _BOOLEAN, _FLOAT = 1, 2, 3, 7, 11, 14, 15
# Offset that the format adds to pointers of 1, 2, 3 and 4 bytes.
_POINTER_BASE: Final = (0, 2048, 526_336, 0)
_LONG_SIZE: Final = {29: (1, 29), 30: (2, 285), 31: (3, 65_821)}


class Tree:
    """A file's content. A node's number below `node_count` is a node, above it a record; equal to it, no data.

    Raises:
        InvalidDatabaseError: the file ends before its records.
    """

    def __init__(self, content: bytes, metadata: Any) -> None:
        self._content = content
        self.node_count: int = metadata.node_count
        self._bits: int = metadata.record_size
        size = self.node_count * self._bits // 4
        if len(content) < size + _GAP:
            raise maxminddb.InvalidDatabaseError("it ends before its records")
        self._nodes = np.frombuffer(content, np.uint8, size).reshape(self.node_count, self._bits // 4)
        self._records = size
        self._decoder = Decoder(content, size + _GAP)
        self._keys: dict[int, Any] = {}
        self.root_of_v4 = 0
        if metadata.ip_version == 6:
            zeros = np.zeros(1, np.uint64)
            self.root_of_v4 = int(self.walk(self.walk(np.zeros(1, np.int64), zeros, 64), zeros, 32)[0])

    def walk(self, nodes: Nodes, bits: Numbers, count: int) -> Nodes:
        """Descend the tree from each of `nodes` by `count` bits, the highest first; stops at a record."""
        nodes = nodes.copy()
        for place in range(count - 1, -1, -1):
            inner = np.flatnonzero(nodes < self.node_count)
            if not len(inner):
                break
            is_right = (bits[inner] >> np.uint64(place)) & np.uint64(1) != 0
            nodes[inner] = self._children(nodes[inner], is_right)
        return nodes

    def is_record(self, nodes: Nodes) -> npt.NDArray[np.bool_]:
        """Return which of the numbers are records, or no data."""
        return nodes >= self.node_count

    def sample(self) -> Nodes:
        """Return the records of addresses that are spread evenly over the address space."""
        spread = np.arange(_SAMPLE, dtype=np.uint64) << np.uint64(32 - _SAMPLE_BITS)
        v4 = self.walk(np.full(_SAMPLE, self.root_of_v4), spread, 32)
        v6 = self.walk(np.zeros(_SAMPLE, np.int64), spread, 32)
        return np.unique(np.concatenate([side[side > self.node_count] for side in (v4, v6)]))

    def records(self) -> Nodes:
        """Return all records of the file."""
        nodes = np.arange(self.node_count)
        children = [self._children(nodes, np.full(self.node_count, side)) for side in (False, True)]
        return np.unique(np.concatenate([side[side > self.node_count] for side in children]))

    def country_place(self, record: int) -> int | None:
        """Return the offset in the file of a record's country; None if it has none. Other fields are not decoded."""
        kind, size, place = self._value(record - self.node_count + self._records)
        if kind != _MAP:
            return None
        for _ in range(size):
            key, place = self._key(place)
            if key == "country":
                return self._target(place)
            place = self._skip(place)
        return None

    def decode(self, place: int) -> Any:
        """Decode the value at an offset in the file."""
        return self._decoder.decode(place)[0]

    def _children(self, nodes: Nodes, is_right: npt.NDArray[np.bool_]) -> Nodes:
        raw = self._nodes[nodes].astype(np.int64).T
        if self._bits == 24:
            left, right = raw[0] << 16 | raw[1] << 8 | raw[2], raw[3] << 16 | raw[4] << 8 | raw[5]
        elif self._bits == 28:
            left = (raw[3] >> 4) << 24 | raw[0] << 16 | raw[1] << 8 | raw[2]
            right = (raw[3] & 15) << 24 | raw[4] << 16 | raw[5] << 8 | raw[6]
        else:
            left = raw[0] << 24 | raw[1] << 16 | raw[2] << 8 | raw[3]
            right = raw[4] << 24 | raw[5] << 16 | raw[6] << 8 | raw[7]
        children: Nodes = np.where(is_right, right, left)
        return children

    def _key(self, place: int) -> tuple[Any, int]:
        """Read a key of a map, and the offset of its value. Most keys are pointers to the same few texts: a cache."""
        kind, target, after = self._header(place)
        if kind != _POINTER:
            return self._decoder.decode(place)
        if target not in self._keys:
            self._keys[target] = self._decoder.decode(target)[0]
        return self._keys[target], after

    def _header(self, place: int) -> tuple[int, int, int]:
        """Read type, size and offset of the content of the value at an offset; a pointer's size is its target."""
        control = self._content[place]
        kind, size, place = control >> 5, control & 31, place + 1
        if kind == _POINTER:
            length = (size >> 3) + 1
            high = 0 if length == 4 else (size & 7) << 8 * length
            target = high + int.from_bytes(self._content[place : place + length], "big")
            return kind, target + _POINTER_BASE[length - 1] + self._records + _GAP, place + length
        if kind == 0:
            kind, place = self._content[place] + 7, place + 1
        if size in _LONG_SIZE:
            length, base = _LONG_SIZE[size]
            size = base + int.from_bytes(self._content[place : place + length], "big")
            place += length
        return kind, size, place

    def _target(self, place: int) -> int:
        """Return the offset of the value at `place`, following a pointer if there is one."""
        kind, size, _ = self._header(place)
        return size if kind == _POINTER else place

    def _value(self, place: int) -> tuple[int, int, int]:
        return self._header(self._target(place))

    def _skip(self, place: int) -> int:
        """Return the offset after the value at `place`."""
        kind, size, place = self._header(place)
        if kind in (_MAP, _ARRAY):
            for _ in range(size * (2 if kind == _MAP else 1)):
                place = self._skip(place)
            return place
        return place if kind in (_POINTER, _BOOLEAN) else place + size
