"""Rows of the fact in the format of binary COPY, as numpy records, grouped by country."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.buffers import Places

# In the order of the table's columns. All have fixed sizes, so that a row is a record.
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
# Seconds from PostgreSQL's epoch, 2000-01-01, back to 1970-01-01.
_EPOCH = 946_684_800
_POSTGRES_EPOCH = np.datetime64("2000-01-01", "us")
# Offset of the time in a row: after the number of fields and its own length.
_TIME = 6
# Family, bits, whether it is a network, and bytes of an inet value.
_INET = {4: (2, 32, 0, 4), 6: (3, 128, 0, 16)}


def _layout(version: int) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in COLUMNS:
        fields += [(f"{name}_length", ">i4"), (name, kind)]
    fields += [
        ("ip_address_length", ">i4"),
        ("family", "u1"),
        ("bits", "u1"),
        ("is_network", "u1"),
        ("size", "u1"),
    ]
    fields += [("v4", ">u4")] if version == 4 else [("high", ">u8"), ("low", ">u8")]
    return np.dtype(fields)


@dataclass(frozen=True)
class CountryRows:
    """Rows of one country, ready to be sent: its index, how many, and their bytes."""

    country: int
    count: int
    pieces: tuple[memoryview, ...]


class RowBuffer:
    """Rows of one IP version: filled block by block, emptied country by country."""

    def __init__(self, version: int, capacity: int) -> None:
        self._layout = _layout(version)
        self._capacity = capacity
        self._version = version
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
        """Number of rows of each of so many countries."""
        return np.bincount(self._countries[: self.count] if self.count else [], minlength=countries)

    def take(self, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, memoryview]]:
        """Country, row count and bytes of each chosen country's rows, in order of arrival; the others stay."""
        if not self.count:
            return
        countries = self._countries[: self.count]
        counts = self.counts(len(chosen))
        content, self.count = native.take_rows(self._rows[: self.count], countries, chosen, counts)
        start = 0
        for country in np.flatnonzero(chosen & (counts > 0)).tolist():
            end = start + int(counts[country]) * self._layout.itemsize
            yield country, int(counts[country]), content.data[start:end]
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
        rows["fields"] = len(COLUMNS) + 1
        for name, kind in COLUMNS:
            rows[f"{name}_length"] = np.dtype(kind).itemsize
        family, bits, is_network, size = _INET[self._version]
        rows["ip_address_length"] = 4 + size
        rows["family"], rows["bits"], rows["is_network"], rows["size"] = family, bits, is_network, size


def group_by_country(buffers: Sequence[RowBuffer], countries: int, keep: int) -> list[CountryRows]:
    """Take rows to send: those of the largest countries, until no more than `keep` rows are left.

    Each COPY leaves some of the pages that it adds to a partition unused: few large ones waste less space.
    """
    totals = np.sum([buffer.counts(countries) for buffer in buffers], axis=0)
    by_size = np.argsort(-totals, kind="stable")
    left_before = totals.sum() - np.cumsum(totals[by_size]) + totals[by_size]
    chosen = np.zeros(countries, bool)
    chosen[by_size[left_before > keep]] = True
    counts: dict[int, int] = {}
    pieces: dict[int, list[memoryview]] = {}
    for buffer in buffers:
        for country, count, piece in buffer.take(chosen):
            counts[country] = counts.get(country, 0) + count
            pieces.setdefault(country, []).append(piece)
    return [CountryRows(country, counts[country], tuple(pieces[country])) for country in sorted(counts)]


def months_of(piece: memoryview) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.datetime64]]:
    """Rows of a piece (of one IP version) as rows of bytes, and the month (UTC) of each."""
    content = np.frombuffer(piece, np.uint8)
    # The address comes last: its length gives the length of all rows of the piece.
    before = _layout(4).fields["family"][1]  # type: ignore[index]
    size = before + int.from_bytes(content[before - 4 : before].tobytes(), "big")
    rows = content.reshape(-1, size)
    moments = np.ascontiguousarray(rows[:, _TIME : _TIME + 8]).view(">i8")[:, 0].astype("m8[us]")
    return rows, (_POSTGRES_EPOCH + moments).astype("M8[M]")


def microseconds(seconds: Places) -> Places:
    """Times as timestamptz: microseconds since 2000-01-01 UTC."""
    return (seconds - _EPOCH) * 1_000_000
