"""Reading bytes at thousands of places at once: unaligned words, and arithmetic within them."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# Bytes that every buffer carries after its last line, so that a word read at its end stays inside it.
PADDING = 64

_ONES = 0x0101010101010101
_HIGH = np.uint64(0x80 * _ONES)
_ZEROS = np.uint64(ord("0") * _ONES)
_ABOVE_NINE = np.uint64(0x76 * _ONES)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)


def u64(value: int) -> np.uint64:
    """`value` as a word: plain ints would turn the arithmetic into floats."""
    return np.uint64(value)


class ByteWords:
    """A buffer as overlapping little-endian words: `at8[place]` is the eight bytes that start there."""

    def __init__(self, buffer: Bytes) -> None:
        size = len(buffer)
        self.at8: Words = np.ndarray((size - 7,), "<u8", buffer=buffer.data, strides=(1,))
        self.at4: npt.NDArray[np.uint32] = np.ndarray((size - 3,), "<u4", buffer=buffer.data, strides=(1,))
        self.at16 = np.ndarray((size - 15,), "V16", buffer=buffer.data, strides=(1,))


def pattern(text: bytes) -> tuple[np.uint64, np.uint64]:
    """Mask and value of the bytes that `text` fixes; '.' fixes nothing."""
    mask = int.from_bytes(bytes(0 if byte == ord(".") else 255 for byte in text), "little")
    return np.uint64(mask), np.uint64(int.from_bytes(text, "little") & mask)


def digits(words: Words) -> tuple[Words, Mask]:
    """Digit values of eight characters a word, and whether all eight are digits."""
    values = words - _ZEROS
    # A character below '0' borrows from its neighbour, but leaves its own high bit set.
    return values, (((values + _ABOVE_NINE) | values) & _HIGH) == 0


def pairs(values: Words) -> Words:
    """Two-digit numbers of digit values, as four 16-bit lanes a word."""
    return (values & _EVEN_BYTES) * np.uint64(10) + ((values >> np.uint64(8)) & _EVEN_BYTES)


def number(values: Words) -> Words:
    """The eight-digit number that digit values spell, first character first."""
    two = pairs(values)
    low, high = two & u64(0x000000FF000000FF), (two >> u64(16)) & u64(0x000000FF000000FF)
    return (low * u64(0x000F424000000064) + high * u64(0x0000271000000001)) >> u64(32)


def find(words: Words, byte: int) -> npt.NDArray[np.int64]:
    """Position 0 to 7 of the first `byte` in each word; 8 where there is none."""
    other = words ^ np.uint64(byte * _ONES)
    hit = (other - np.uint64(_ONES)) & ~other & _HIGH
    below = (hit & (~hit + np.uint64(1))) - np.uint64(1)
    return (np.bitwise_count(below) >> 3).astype(np.int64)
