"""Rows of the fact in the format of binary COPY, as numpy records, grouped by country."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.buffers import Places

# The columns of every row. All have fixed sizes, so that a row is a numpy record.
COLUMNS = (
    ("requested_at", ">i8"),
    ("response_bytes", ">i8"),
    ("run_id", ">i8"),
    ("file_id", ">i4"),
    ("line_number", ">i4"),
    ("request_key", ">i4"),
    ("user_agent_key", ">i4"),
    ("referer_key", ">i4"),
    ("web_user_key", ">i4"),
    ("status_code", ">i2"),
    ("device_key", ">i2"),
    ("traffic_source_key", ">i2"),
    ("country", "S2"),
)
# Columns that not every format has. Rows with none of them are copied without these columns.
OPTIONAL = (
    ("request_bytes", ">i8"),
    ("host_key", ">i4"),
    ("client_host_key", ">i4"),
    ("request_seconds", ">f4"),
    ("is_tls", "u1"),
)
_ADDRESS = "ip_address"
# Seconds from PostgreSQL's epoch, 2000-01-01, back to 1970-01-01.
_EPOCH = 946_684_800
_POSTGRES_EPOCH = np.datetime64("2000-01-01", "us")
# Offset of the time in a row: after the number of fields and its own length.
_TIME = 6
# Family, bits, whether it is a network, and bytes of an inet value.
_INET = {4: (2, 32, 0, 4), 6: (3, 128, 0, 16)}
_NULL = -1


class Shape(NamedTuple):
    """Layout of rows: IP version of their address (4, 6, or 0 for none), and the optional columns that they have."""

    version: int
    optional: frozenset[str] = frozenset()

    @property
    def is_wide(self) -> bool:
        """Whether the rows are sent with all columns, empty ones included."""
        return self.version == 0 or bool(self.optional)

    @property
    def layout(self) -> np.dtype[np.void]:
        """Record type of a row in the format of binary COPY."""
        fields: list[tuple[str, str]] = [("fields", ">i2")]
        for name, kind in COLUMNS:
            fields += [(f"{name}_length", ">i4"), (name, kind)]
        fields += [("ip_address_length", ">i4")]
        if self.version:
            fields += [("family", "u1"), ("bits", "u1"), ("is_network", "u1"), ("size", "u1")]
            fields += [("v4", ">u4")] if self.version == 4 else [("high", ">u8"), ("low", ">u8")]
        for name, kind in OPTIONAL if self.is_wide else ():
            fields += [(f"{name}_length", ">i4")]
            fields += [(name, kind)] if name in self.optional else []
        return np.dtype(fields)


class Piece(NamedTuple):
    """Rows of one shape in the format of binary COPY."""

    content: memoryview
    row_bytes: int
    is_wide: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows, in their order."""
        optional = tuple(name for name, _ in OPTIONAL) if self.is_wide else ()
        return (*(name for name, _ in COLUMNS), _ADDRESS, *optional)


@dataclass(frozen=True)
class CountryRows:
    """Rows of one country, ready to be sent: its index, how many, and their bytes."""

    country: int
    count: int
    pieces: tuple[Piece, ...]


class RowBuffer:
    """Rows of one shape: filled block by block, emptied country by country."""

    def __init__(self, shape: Shape, capacity: int) -> None:
        self._layout = shape.layout
        self._capacity = capacity
        self._shape = shape
        self.count = 0

    def append(
        self,
        run_id: int,
        file_id: int,
        countries: npt.NDArray[np.int16],
        codes: npt.NDArray[np.bytes_],
        values: dict[str, npt.NDArray[np.generic] | Places],
    ) -> None:
        """Add rows; `values` has all columns but the constant ones and the country."""
        if not hasattr(self, "_rows"):
            self._allocate()
        added = len(countries)
        if self.count + added > len(self._rows):
            self._grow(self.count + added)
        rows = self._rows[self.count : self.count + added]
        rows["run_id"], rows["file_id"], rows["country"] = run_id, file_id, codes[countries]
        for name, column in values.items():
            rows[name] = column
        self._countries[self.count : self.count + added] = countries
        self.count += added

    def counts(self, countries: int) -> npt.NDArray[np.int64]:
        """Count the rows of each country; `countries` is the number of countries."""
        return np.bincount(self._countries[: self.count] if self.count else [], minlength=countries)

    def take(self, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, Piece]]:
        """Yield country, row count and bytes of each chosen country's rows, in order of arrival; the others stay."""
        if not self.count:
            return
        countries = self._countries[: self.count]
        counts = self.counts(len(chosen))
        content, self.count = native.take_rows(self._rows[: self.count], countries, chosen, counts)
        start = 0
        for country in np.flatnonzero(chosen & (counts > 0)).tolist():
            end = start + int(counts[country]) * self._layout.itemsize
            piece = Piece(content.data[start:end], self._layout.itemsize, self._shape.is_wide)
            yield country, int(counts[country]), piece
            start = end

    def _allocate(self) -> None:
        self._rows = np.zeros(self._capacity, self._layout)
        self._countries = np.zeros(self._capacity, np.int16)
        self._preset(self._rows)

    def _grow(self, needed: int) -> None:
        rows, countries = self._rows, self._countries
        self._capacity = max(needed, len(rows) * 4)
        self._allocate()
        self._rows[: self.count], self._countries[: self.count] = rows[: self.count], countries[: self.count]

    def _preset(self, rows: npt.NDArray[np.void]) -> None:
        shape = self._shape
        rows["fields"] = len(COLUMNS) + 1 + (len(OPTIONAL) if shape.is_wide else 0)
        for name, kind in COLUMNS:
            rows[f"{name}_length"] = np.dtype(kind).itemsize
        rows["ip_address_length"] = _NULL
        if shape.version:
            family, bits, is_network, size = _INET[shape.version]
            rows["ip_address_length"] = 4 + size
            rows["family"], rows["bits"], rows["is_network"], rows["size"] = family, bits, is_network, size
        for name, kind in OPTIONAL if shape.is_wide else ():
            rows[f"{name}_length"] = np.dtype(kind).itemsize if name in shape.optional else _NULL


def group_by_country(buffers: Collection[RowBuffer], countries: int, keep: int) -> list[CountryRows]:
    """Take rows to send: those of the largest countries, until no more than `keep` rows are left.

    Each COPY leaves some of the pages that it adds to a partition unused: few large ones waste less space.
    """
    totals = np.sum([buffer.counts(countries) for buffer in buffers], axis=0)
    by_size = np.argsort(-totals, kind="stable")
    left_before = totals.sum() - np.cumsum(totals[by_size]) + totals[by_size]
    chosen = np.zeros(countries, bool)
    chosen[by_size[left_before > keep]] = True
    counts: dict[int, int] = {}
    pieces: dict[int, list[Piece]] = {}
    for buffer in buffers:
        for country, count, piece in buffer.take(chosen):
            counts[country] = counts.get(country, 0) + count
            pieces.setdefault(country, []).append(piece)
    return [CountryRows(country, counts[country], tuple(pieces[country])) for country in sorted(counts)]


def months_of(piece: Piece) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.datetime64]]:
    """Return the rows of a piece as rows of bytes, and the month (UTC) of each."""
    rows = np.frombuffer(piece.content, np.uint8).reshape(-1, piece.row_bytes)
    moments = np.ascontiguousarray(rows[:, _TIME : _TIME + 8]).view(">i8")[:, 0].astype("m8[us]")
    return rows, (_POSTGRES_EPOCH + moments).astype("M8[M]")


def microseconds(seconds: Places) -> Places:
    """Convert times to timestamptz: microseconds since 2000-01-01 UTC."""
    return (seconds - _EPOCH) * 1_000_000
