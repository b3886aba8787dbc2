"""The functions of scan.c other than parsing lines, in plain Python, for installations without a C compiler."""

import hashlib
import socket
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader.buffers import Bytes, Mask, Places, Words


def parse_v4(buffer: Bytes, start: Places, end: Places) -> tuple[npt.NDArray[np.uint32], Mask]:
    """Parse IPv4 addresses as numbers; returns them, and which texts are addresses."""
    packed = [pack_address(socket.AF_INET, text) for text in _texts(buffer, start, end)]
    addresses = np.frombuffer(b"".join(one or bytes(4) for one in packed), ">u4").astype(np.uint32)
    return addresses, np.array([one is not None for one in packed], np.bool_)


def hash_texts(buffer: Bytes, start: Places, end: Places, secret: bytes) -> Words:
    """64-bit hash of each text; never 0, which marks an empty slot."""
    digests = (
        hashlib.blake2b(text, digest_size=8, key=secret).digest() for text in _texts(buffer, start, end)
    )
    return np.maximum(np.frombuffer(b"".join(digests), np.uint64), np.uint64(1))


def find_slots(hashes: Words, table: Words) -> Places:
    """Slot of each hash; -1 where it is not in the table."""
    mask = len(table) - 1
    slots = (hashes & np.uint64(mask)).astype(np.int64)
    while len(collided := np.flatnonzero((table[slots] != hashes) & (table[slots] != 0))):
        slots[collided] = (slots[collided] + 1) & mask
    return np.where(table[slots] == hashes, slots, -1)


def take_rows(
    rows: npt.NDArray[np.void], countries: npt.NDArray[np.int16], chosen: Mask
) -> tuple[Bytes, int]:
    """Bytes of the chosen countries' rows, grouped by country, and the number of rows that stay."""
    leaving = np.flatnonzero(chosen[countries])
    staying = np.flatnonzero(~chosen[countries])
    content = rows[leaving[np.argsort(countries[leaving], kind="stable")]].view(np.uint8)
    rows[: len(staying)], countries[: len(staying)] = rows[staying], countries[staying]
    return content, len(staying)


def pack_address(family: socket.AddressFamily, text: bytes) -> bytes | None:
    """Convert an address to bytes in network order; None if the text is no address of that family."""
    try:
        return socket.inet_pton(family, text.decode("ascii"))
    except (OSError, ValueError):
        return None


def _texts(buffer: Bytes, start: Places, end: Places) -> Iterator[bytes]:
    return (buffer[a:b].tobytes() for a, b in zip(start.tolist(), end.tolist(), strict=True))
